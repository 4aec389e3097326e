"""`regionr1 data answers`: score the answers of a model that read the ranked pages."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from regionr1.errors import UserError


def answers(
    predictions: Path, references: Path, source: Literal["evqa", "infoseek"] = "infoseek"
) -> None:
    """Score answers by InfoSeek's official rules, or by E-VQA's exact match (without BEM).

    Args:
        predictions: JSON Lines or a JSON list of ``{"data_id", "prediction"}``.
        references: ``infoseek_val.jsonl``, or E-VQA's ``test.csv`` (whose single-hop rows are
            E-VQA_0, E-VQA_1 and so on, as EchoSight and OMGM number them).
        source: Which rules.
    """
    given = _predictions(predictions)
    judge = _infoseek if source == "infoseek" else _evqa
    groups: dict[str, list[bool]] = defaultdict(list)
    n_references = 0
    for data_id, group, correct in judge(references):
        n_references += 1
        if data_id in given:
            groups[group].append(correct(given.pop(data_id)))
    n_scored = sum(map(len, groups.values()))
    if n_scored == 0:
        raise UserError(f"{predictions}: no prediction is for a question of {references}.")
    for group, marks in sorted(groups.items()):
        print(f"{group}: {100 * sum(marks) / len(marks):.2f}  (N={len(marks):,})")
    _print_total(groups, source)
    if n_scored < n_references:
        print(f"{n_references - n_scored:,} of {n_references:,} questions have no prediction; the")
        print("scores are over those that have one, as the official scorer does it: a subset.")
    if given:
        print(f"{len(given):,} predictions are for no question here and were passed over")


def _print_total(groups: dict[str, list[bool]], source: str) -> None:
    from regionr1.evaluation import evqa_answers
    from regionr1.evaluation.infoseek_answers import final_score, part_score

    if source == "evqa":
        marks = [mark for group, own in groups.items() if group != "2_hop" for mark in own]
        if marks:
            print(f"single-hop: {100 * sum(marks) / len(marks):.2f}  (N={len(marks):,})")
        print(evqa_answers.NOTE)
        return
    parts = [groups.get(name) for name in ("unseen_question", "unseen_entity")]
    if parts[0] and parts[1]:
        print(f"final: {final_score(part_score(parts[0]), part_score(parts[1])):.2f}")
    else:
        print("final: none, because it needs both unseen_question and unseen_entity")


Judge = Iterator[tuple[str, str, Callable[[str], bool]]]


def _infoseek(path: Path) -> Judge:
    from regionr1.data.readers.tables import json_lines
    from regionr1.evaluation.infoseek_answers import is_correct

    keys = ("data_id", "answer_eval", "data_split")
    for line, record in json_lines(path, keys, "InfoSeek's references"):
        group = str(record["data_split"]).removeprefix("val_")

        def correct(prediction: str, record: dict[str, Any] = record, line: int = line) -> bool:
            return _named(f"{path}:{line}", is_correct, prediction, record["answer_eval"])

        yield record["data_id"], group, correct


def _evqa(path: Path) -> Judge:
    from regionr1.data.readers.tables import csv_rows
    from regionr1.evaluation.evqa_answers import exact_match

    n_single_hop = 0
    for line, row in csv_rows(path, ("answer", "question_type"), "E-VQA's references"):
        kind = row["question_type"]
        data_id = row.get("data_id", "")
        if kind != "2_hop":
            data_id = data_id or f"E-VQA_{n_single_hop}"
            n_single_hop += 1

        def correct(prediction: str, row: dict[str, str] = row, line: int = line) -> bool:
            return _named(
                f"{path}:{line}", exact_match, prediction, row["answer"], row["question_type"]
            )

        yield data_id, kind, correct


def _named(where: str, judge: Callable[..., bool], *values: object) -> bool:
    try:
        return judge(*values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _predictions(path: Path) -> dict[str, str]:
    from regionr1.data.readers.tables import json_lines

    try:
        with path.open("rb") as file:
            is_list = file.read(1) == b"["
        records = json.loads(path.read_text(encoding="utf-8")) if is_list else None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}).") from error
    if records is None:
        lines = json_lines(path, ("data_id", "prediction"), "the predictions")
        records = [record for _, record in lines]
    given: dict[str, str] = {}
    for n, record in enumerate(records):
        data_id = record.get("data_id") if isinstance(record, dict) else None
        text = record.get("prediction") if isinstance(record, dict) else None
        if not isinstance(data_id, str) or not isinstance(text, str):
            raise UserError(f"{path}: prediction {n} needs the texts 'data_id' and 'prediction'.")
        if data_id in given:
            raise UserError(f"{path}: data_id {data_id!r} occurs twice; keep one.")
        given[data_id] = text
    return given
