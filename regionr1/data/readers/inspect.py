"""What a folder of published files holds: counts by split, type and source, and what is missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from regionr1.data.readers.base import SPLITS, Source
from regionr1.data.records import MissingImage, SkipReport, first_at
from regionr1.progress import progress


@dataclass
class SplitCounts:
    """Counts of one split; every image-question pair is one, with an image file or without.

    Attributes:
        questions: Pairs, an image and a question each.
        missing_images: Pairs whose image has no file.
        first_missing: Where the first of these is, and what was looked for.
        by_type: Pairs by question type.
        by_source: Pairs by image collection.
        by_subset: Pairs by part of the split, where the data set has parts.
        skipped: Pairs left out for another reason.
        first_skipped: Where the first case of each of these reasons is.
        gold_entities: Distinct correct entities.
        gold_not_in_kb: Those that the knowledge base lacks; None when it was not read.
    """

    questions: int = 0
    missing_images: int = 0
    first_missing: str = ""
    by_type: dict[str, int] = field(default_factory=dict)
    by_source: dict[str, int] = field(default_factory=dict)
    by_subset: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    first_skipped: dict[str, str] = field(default_factory=dict)
    gold_entities: int = 0
    gold_not_in_kb: int | None = None


@dataclass
class Inspection:
    """What `inspect_source` found.

    Attributes:
        source: Name of the layout.
        missing: What the layout needs and the folder lacks.
        splits: Counts by split, for the splits that are there.
        knowledge_base: Numbers of entities and images; empty when it was not read.
    """

    source: str
    missing: list[str]
    splits: dict[str, SplitCounts]
    knowledge_base: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The counts as plain data."""
        return asdict(self)

    def text(self) -> str:
        """The counts as text for people."""
        lines = [f"layout {self.source}"]
        for split, counts in self.splits.items():
            lines.append(f"{split}: {counts.questions:,} image-question pairs")
            for label, table in (
                ("type", counts.by_type),
                ("source", counts.by_source),
                ("subset", counts.by_subset),
            ):
                if table:
                    shown = ", ".join(f"{name} {n:,}" for name, n in sorted(table.items()))
                    lines.append(f"  by {label}: {shown}")
            if counts.missing_images:
                lines.append(
                    f"  {counts.missing_images:,} without an image file, the first at "
                    f"{counts.first_missing}"
                )
            lines += [
                f"  {n:,} left out: {reason}{first_at(counts.first_skipped.get(reason))}"
                for reason, n in counts.skipped.items()
            ]
            known = (
                ""
                if counts.gold_not_in_kb is None
                else (f", {counts.gold_not_in_kb:,} of them not in the knowledge base")
            )
            lines.append(f"  {counts.gold_entities:,} entities asked for{known}")
        for name, n in self.knowledge_base.items():
            lines.append(f"knowledge base: {n:,} {name}")
        lines += [f"missing: {sentence}" for sentence in self.missing]
        return "\n".join(lines)


def inspect_source(source: Source, read_kb: bool = True) -> Inspection:
    """Count what a folder holds.

    Args:
        source: Reader of the folder.
        read_kb: Read the knowledge base too, if it is there.

    Raises:
        UserError: A file is there but malformed.
    """
    source.tolerant, source.include_two_hop = True, source.has_two_hop
    splits: dict[str, SplitCounts] = {}
    gold: dict[str, set[str]] = {}
    for split in SPLITS:
        if source.questions_path(split).is_file():
            splits[split], gold[split] = _count_split(source, split)
    numbers: dict[str, int] = {}
    if read_kb and source.kb_path.is_file():
        numbers = _count_kb(source, gold)
        for split, counts in splits.items():
            counts.gold_not_in_kb = len(gold[split])
    return Inspection(source.name, source.missing(), splits, numbers)


def _count_split(source: Source, split: str) -> tuple[SplitCounts, set[str]]:
    counts, gold, report = SplitCounts(), set(), SkipReport()
    for item in progress(source.read(split, report), desc=split, unit="pair"):
        counts.questions += 1
        for table, name in (
            (counts.by_type, item.question_type),
            (counts.by_source, item.source),
            (counts.by_subset, item.subset),
        ):
            if name:
                table[name] = table.get(name, 0) + 1
        if isinstance(item, MissingImage):
            counts.missing_images += 1
            counts.first_missing = counts.first_missing or f"{item.where}: {item.reason}"
        gold.update(item.gold_ids)
    counts.skipped, counts.first_skipped = report.as_dict(), report.first
    counts.gold_entities = len(gold)
    return counts, gold


def _count_kb(source: Source, gold: dict[str, set[str]]) -> dict[str, int]:
    """Count the knowledge base in one pass; entities found are taken out of ``gold``."""
    numbers: Counter[str] = Counter()
    report = SkipReport()
    for entity in progress(source.entities(report), desc="knowledge base", unit="page"):
        numbers["entities"] += 1
        numbers["entities with an image file"] += bool(entity.image_paths)
        numbers["images with a file"] += len(entity.image_paths)
        numbers["images without a file"] += entity.n_unresolved
        for wanted in gold.values():
            wanted.discard(entity.id)
    return {**numbers, **{f"x {reason}": n for reason, n in report.as_dict().items()}}
