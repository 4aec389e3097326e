"""Typed records that every reader produces and the shard builder consumes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Box = tuple[float, float, float, float]


def box_fault(numbers: Any, width: float, height: float) -> str | None:
    """What is wrong with a box of an image of this size; None where nothing is.

    A rounded edge may lie one pixel outside. Numbers of other frames do not pass: those of the
    unit square lie within the first pixel, and xywh mostly outside or without an area.
    """
    try:
        fit = len(numbers) == 4 and all(type(n) in (int, float) and abs(n) < 1e9 for n in numbers)
    except TypeError:
        fit = False
    if not fit:
        return f"box_px must be 4 numbers, not {str(numbers)[:80]}"
    x1, y1, x2, y2 = numbers
    inside = -1 <= x1 < x2 <= width + 1 and -1 <= y1 < y2 <= height + 1
    if inside and (max(numbers) > 1 or max(width, height) <= 1):
        return None
    return (
        f"box_px {list(numbers)} is no [x1, y1, x2, y2] with x1 < x2 and y1 < y2 in pixels of its "
        "upright image" + (f" of {width}x{height}" if width < math.inf else "")
    )


@dataclass(frozen=True, slots=True)
class Query:
    """One image-question pair; a row with five images gives five queries.

    Attributes:
        key: Unique in the data set, without dots (WebDataset splits names at the first dot).
        image_path: The query image on disk.
        question: The question as asked (never the un-rephrased one, which names the entity).
        gold_ids: Entity ids that count as correct, at least one.
        cluster: Queries of one cluster share an entity; bootstrap intervals resample clusters.
        question_type: As published, for example ``templated``.
        source: Image collection the query image comes from, for example ``landmarks``.
        split: ``train``, ``val`` or ``test``.
        reference_box_px: xyxy box of the target in pixels of the upright original image, where
            the data set knows one. Never used by the reward.
        data_id: What result files of retrieval systems call this query; empty where they do not
            know it.
        subset: Part of the split that is reported apart, for example ``unseen_entity``.
    """

    key: str
    image_path: Path
    question: str
    gold_ids: tuple[str, ...]
    cluster: str
    question_type: str
    source: str
    split: str
    reference_box_px: Box | None = None
    data_id: str = ""
    subset: str = ""


@dataclass(frozen=True, slots=True)
class MissingImage:
    """An image-question pair whose image has no file.

    Attributes:
        where: File and line of the question.
        reason: What was looked for.
        question_type: As published.
        source: Image collection.
        gold_ids: Entity ids that count as correct.
        subset: Part of the split.
    """

    where: str
    reason: str
    question_type: str
    source: str
    gold_ids: tuple[str, ...]
    subset: str = ""


@dataclass(frozen=True, slots=True)
class Entity:
    """One page of the knowledge base.

    Attributes:
        id: The page's key, for E-VQA its Wikipedia URL, compared as an exact string.
        title: Page title.
        text: Title and first section, what a text-aware scorer reads.
        image_paths: The page's images that a file mapping resolves, in page order.
        n_unresolved: Images of the page that have no file.
    """

    id: str
    title: str
    text: str
    image_paths: tuple[Path, ...]
    n_unresolved: int = 0


@dataclass(slots=True)
class SkipReport:
    """What was left out and why; the first case of each reason is kept as an example."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: str, n: int = 1) -> None:
        """Count ``n`` cases of ``reason``; ``example`` says where the first one is."""
        self.counts[reason] += n
        self.first.setdefault(reason, example)

    @classmethod
    def of(cls, counts: dict[str, int], first: dict[str, str]) -> SkipReport:
        """The report that was stored as its counts and its examples."""
        return cls(Counter(counts), dict(first))

    def include(self, other: SkipReport) -> None:
        """Count the cases of another report too."""
        for reason, n in other.counts.items():
            self.add(reason, other.first.get(reason, ""), n)

    def lines(self) -> list[str]:
        """Every reason as a line for people, largest first: how often, why, and where first."""
        return [
            f"{n:,} x {reason}{first_at(self.first.get(reason))}"
            for reason, n in self.as_dict().items()
        ]

    @property
    def total(self) -> int:
        """Number of cases over all reasons."""
        return self.counts.total()

    def as_dict(self) -> dict[str, int]:
        """Reasons and their counts, largest first."""
        return dict(self.counts.most_common())


def first_at(example: str | None) -> str:
    """The end of a line that counts cases: where the first of them is, if that is known."""
    return f", the first: {example}" if example else ""
