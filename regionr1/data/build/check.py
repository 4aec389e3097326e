"""What can be told of a data set before anything is embedded: all that needs no pixels."""

from __future__ import annotations

from collections.abc import Sequence

from regionr1.data.readers.base import Source
from regionr1.data.records import SkipReport
from regionr1.errors import UserError
from regionr1.progress import progress


def check_source(source: Source, splits: Sequence[str], skip_missing: bool) -> None:
    """Read every record once, as the stages will: embedding takes days, this takes minutes.

    Args:
        source: Reader of the published files.
        splits: Which splits are wanted.
        skip_missing: Whether queries without an image file are left out.

    Raises:
        UserError: A malformed record or one that occurs twice, missing images, or a split whose
            every gold entity the knowledge base lacks.
    """
    asked: dict[str, set[str]] = {}
    for split in splits:
        queries = source.present(split, SkipReport(), skip_missing)
        asked[split] = {gold for query in queries for gold in query.gold_ids}
    examples = {split: min(gold, default="") for split, gold in asked.items()}
    unknown = {split: set(gold) for split, gold in asked.items()}
    pages = source.entities(SkipReport())
    for entity in progress(pages, "check the files", unit="page"):
        for gold in unknown.values():
            gold.discard(entity.id)
    for split, gold in unknown.items():
        if gold and len(gold) == len(asked[split]):
            raise UserError(
                f"{source.kb_path}: has none of the {len(gold):,} entities that the {split} "
                f"questions ask for, such as {examples[split]!r}; check that the gold entities are "
                "the knowledge base's keys."
            )
