"""Predictions as the result files that retrieval systems and trec_eval read.

`echosight` and `omgm` are JSON objects by data_id: what EchoSight's and OMGM's programs write after
retrieval, with the new order. EchoSight's `reranked_sections` are missing, for shards hold no
texts; OMGM's second step makes its own from the pages listed here. A query whose answer was
INVALID keeps the order of the full image there, because a generator needs a page to read.

`trec` is a run file, with the relevance judgements beside it. A query whose answer was INVALID has
no line, as it is a miss in the test table: `trec_eval -c` counts it as one.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

import numpy as np

from regionr1.evaluation.predictions import Prediction, prediction_line, read_predictions
from regionr1.files import write_whole

ResultFormat = Literal["jsonl", "echosight", "omgm", "trec"]
TAG = "regionr1"
_MEND = "choose another path for the predictions"


def write_results(parts: Sequence[Path], path: Path, kind: ResultFormat) -> tuple[int, list[str]]:
    """Joins JSON Lines of predictions into one file, a prediction at a time in memory.

    Args:
        parts: Files of predictions.
        path: The result file; `trec` writes `PATH.qrels` too.
        kind: Its form.

    Returns:
        How many predictions there are, and what a user should know about the file, one sentence
        each.

    Raises:
        UserError: The file cannot be written.
    """
    total, invalid, unnamed = 0, 0, 0

    def predictions() -> Iterator[Prediction]:
        return chain.from_iterable(map(read_predictions, parts))

    def counted() -> Iterator[Prediction]:
        nonlocal total, invalid, unnamed
        for prediction in predictions():
            total += 1
            invalid += prediction.ranking is None
            unnamed += prediction.data_id is None
            yield prediction

    notes = []
    if kind == "jsonl":
        _write(path, (f"{prediction_line(prediction)}\n" for prediction in counted()))
    elif kind == "trec":
        qrels = path.with_name(f"{path.name}.qrels")
        _write(path, map(_run_lines, counted()))
        _write(qrels, map(_judgements, predictions()))
        notes.append(f"relevance judgements: {qrels}")
        if invalid:
            counts = f"`trec_eval -c {qrels} {path}` counts them"
            notes.append(f"{invalid} INVALID answers have no lines; {counts}")
    else:
        _write(path, _object(counted(), _echosight if kind == "echosight" else _omgm))
        if invalid:
            notes.append(f"{invalid} INVALID answers keep the order of the full image")
        if unnamed:
            notes.append(f"{unnamed} queries left out: {kind}'s files have no data_id for them")
    return total, notes


def _write(path: Path, texts: Iterable[str]) -> None:
    write_whole(path, lambda file: file.writelines(text.encode() for text in texts), mend=_MEND)


def _object(
    predictions: Iterable[Prediction], record: Callable[[Prediction], dict[str, Any]]
) -> Iterator[str]:
    """A JSON object, a line for each query that result files know."""
    between = "{\n"
    for prediction in predictions:
        if prediction.data_id is not None:
            name = json.dumps(prediction.data_id, ensure_ascii=False)
            yield f"{between}{name}: {json.dumps(record(prediction), ensure_ascii=False)}"
            between = ",\n"
    yield "{}\n" if between == "{\n" else "\n}\n"


def _echosight(prediction: Prediction) -> dict[str, Any]:
    kept = prediction.ranking_full if prediction.ranking is None else prediction.ranking
    return {
        "retrieved_entries": list(prediction.ranking_full),
        "retrieval_similarities": list(prediction.scores_full),
        "reranked_entries": list(kept),
    }


def _omgm(prediction: Prediction) -> dict[str, Any]:
    ranking, scores = prediction.ranking, prediction.scores
    if ranking is None or scores is None:
        ranking, scores = prediction.ranking_full, prediction.scores_full
    return {
        "retrieved_entities": [{"url": page, "title": title_of(page)} for page in ranking],
        "retrieval_similarities": list(scores),
    }


def title_of(page: str) -> str:
    """The title in a Wikipedia address, by which OMGM finds a page's pictures; else the id."""
    _, wiki, title = page.partition("/wiki/")
    return unquote(title).replace("_", " ") if wiki else page


def _run_lines(prediction: Prediction) -> str:
    """A query's lines `query Q0 document rank score tag`.

    trec_eval orders by the score as a float of 32 bits and, where two are equal, by name. A tie's
    later entry therefore has the next smaller number, so that the order stays ours.
    """
    if prediction.ranking is None or prediction.scores is None:
        return ""
    query, lines, above = _word(prediction.data_id or prediction.key), [], np.float32(np.inf)
    for rank, (page, value) in enumerate(
        zip(prediction.ranking, prediction.scores, strict=True), start=1
    ):
        above = min(np.float32(value), np.nextafter(above, np.float32(-np.inf)))
        lines.append(f"{query} Q0 {_word(page)} {rank} {above:.9g} {TAG}\n")
    return "".join(lines)


def _judgements(prediction: Prediction) -> str:
    query = _word(prediction.data_id or prediction.key)
    return "".join(f"{query} 0 {_word(page)} 1\n" for page in prediction.gold_ids)


def _word(name: str) -> str:
    """A name without white space, which separates trec_eval's columns."""
    return re.sub(r"\s", lambda found: quote(found[0]), name)
