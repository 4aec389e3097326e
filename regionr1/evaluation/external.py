"""Rankings that EchoSight, OMGM, SCAR, ProMSA and WikiSeeker wrote, as rows beside ours.

A JSON object `{data_id: {...}}`, or JSON Lines with a `data_id` each, whose record holds one of

    reranked_entries                    EchoSight after its re-ranking
    retrieved_entries                   EchoSight before it
    retrieved_entities                  OMGM, SCAR, WikiSeeker
    image_search_results.organic        ProMSA

a list of pages, best first: an id, or an object with `url`, `link` or `id`. Repeated pages count
once. Such a ranking has its own pool, so CondR@K is over the queries whose list holds a right page.
MRR and NDCG are of pages, where those of our rows are of pictures.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from regionr1.algorithm.ranking import first_positive_rank, ndcg
from regionr1.data.readers.json_object import scan_object
from regionr1.data.readers.tables import json_lines
from regionr1.errors import UserError
from regionr1.evaluation.table import Outcome

LISTS = ("reranked_entries", "retrieved_entries", "retrieved_entities")
NAMES = ("url", "link", "id")
WHAT = "the ranking"


def read_rankings(path: Path) -> dict[str, list[str]]:
    """Distinct pages by data_id, best first.

    Raises:
        UserError: The file is missing or malformed, or names a query twice.
    """
    found: dict[str, list[str]] = {}
    for data_id, record in _records(path):
        if data_id in found:
            raise UserError(f"{path}: query {data_id!r} occurs twice; keep one.")
        found[data_id] = _pages(record, f"{path}: {data_id!r}")
    if not found:
        raise UserError(f"{path}: holds no query; name the file of the test split.")
    return found


def external_outcomes(
    name: str, path: Path, rankings: Mapping[str, Sequence[str]], full: Sequence[Outcome]
) -> list[Outcome]:
    """A row of the test table from another system's rankings; queries that it lacks are skipped.

    Args:
        name: The row.
        path: The file, for messages.
        rankings: What `read_rankings` read.
        full: The row `full` of a test, which knows queries, right entities and parts.

    Raises:
        UserError: The test does not know what result files call its queries, or a query of the
            file is none of the test.
    """
    by_id = {outcome.data_id: outcome for outcome in full if outcome.data_id is not None}
    if not by_id:
        raise UserError(
            "the test keeps no data_id of its queries, by which result files name them; test the "
            "run again, on shards made by this version"
        )
    unknown = [data_id for data_id in rankings if data_id not in by_id]
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} of its {len(rankings)} queries are not in the test, the first "
            f"{unknown[0]!r}; name the file of this split, and test all of it"
        )
    return [external_outcome(name, list(rankings[i]), o) for i, o in by_id.items() if i in rankings]


def external_outcome(name: str, ranking: list[str], query: Outcome) -> Outcome:
    """One query of another system's row."""
    gold = set(query.gold_ids)
    right = torch.tensor([page in gold for page in ranking], dtype=torch.bool)
    scores, valid = -torch.arange(len(ranking), dtype=torch.float), torch.ones_like(right)
    found = bool(right.any())
    return Outcome(
        key=query.key,
        cluster=query.cluster,
        method=name,
        ranking=ranking,
        gold_ids=query.gold_ids,
        pool_has_positive=found,
        rank=float(first_positive_rank(scores, right, valid)) if found else math.inf,
        ndcg=float(ndcg(scores, right, valid)) if found else 0.0,
        decision="FULL",
        groups=query.groups,
        data_id=query.data_id,
    )


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix != ".jsonl":
        yield from scan_object(path, WHAT)
        return
    for line, record in json_lines(path, ("data_id",), WHAT):
        if not isinstance(record["data_id"], str):
            raise UserError(f"{path}:{line}: 'data_id' must be a text, got {record['data_id']!r}.")
        yield record["data_id"], record


def _pages(record: object, where: str) -> list[str]:
    entries = next(
        (record[name] for name in LISTS if isinstance(record, dict) and name in record), None
    )
    if isinstance(record, dict) and entries is None:
        searched = record.get("image_search_results")
        entries = searched.get("organic") if isinstance(searched, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{where}: has no list {', '.join(LISTS)} or image_search_results.organic.")
    pages = dict.fromkeys(
        next((entry[n] for n in NAMES if n in entry), None) if isinstance(entry, dict) else entry
        for entry in entries
    )
    for page in pages:
        if not isinstance(page, str) or not page:
            raise UserError(
                f"{where}: a page is neither an id nor an object with {'/'.join(NAMES)}."
            )
    return [str(page) for page in pages]
