"""Crops against reference boxes: overlap, containment and pointing (paper, table 7).

The paper's reference is what a detector finds for the question's key word; here it is the box that
came with the query. A view that is the whole image has no crop, so only REGION answers count, and
how many they are stands beside the numbers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from regionr1.algorithm.boxes import area, iou
from regionr1.evaluation.behaviour import WHOLE
from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.markdown import interval_cell, markdown_table
from regionr1.evaluation.table import Outcome, by_method

Box = tuple[float, float, float, float]
SHOWN = ("centre", "random", "warm_start", "warm_start_region", "policy", "policy_region")


@dataclass(frozen=True)
class CropQuality:
    """One method's crops of the queries that have a reference box smaller than the image.

    Attributes:
        method: Row of the test table.
        n: Queries with such a box that the method cropped.
        n_skipped: Those that it did not crop.
        iou: Mean overlap with the box.
        containment: Mean share of the box that the crop holds.
        pointing: Share of crops whose middle lies in the box.
        area: Mean area of the crops as a share of the image.
    """

    method: str
    n: int
    n_skipped: int
    iou: float
    containment: float
    pointing: float
    area: float


def crop_quality(outcomes: Iterable[Outcome]) -> list[CropQuality]:
    """The rows SHOWN that were tested and cropped something; empty without reference boxes."""
    methods = by_method(outcomes)
    wanted = {
        key: box
        for key, reference in methods.get("reference", {}).items()
        if (box := reference.box_unit) is not None and tuple(box) != WHOLE
    }
    rows = []
    for method in SHOWN:
        crops = {k: o.box_unit for k, o in methods.get(method, {}).items() if k in wanted}
        pairs = [(box, wanted[key]) for key, box in crops.items() if box is not None]
        if pairs:
            rows.append(_quality(method, pairs, len(crops) - len(pairs)))
    return rows


def _quality(method: str, pairs: Sequence[tuple[Box, Box]], n_skipped: int) -> CropQuality:
    ours, theirs = (torch.tensor(boxes) for boxes in zip(*pairs, strict=True))
    low, high = torch.maximum(ours[:, :2], theirs[:, :2]), torch.minimum(ours[:, 2:], theirs[:, 2:])
    inside = (high - low).clamp(min=0).prod(-1)
    middle = (ours[:, :2] + ours[:, 2:]) / 2
    hit = ((middle >= theirs[:, :2]) & (middle <= theirs[:, 2:])).all(-1)
    return CropQuality(
        method=method,
        n=len(pairs),
        n_skipped=n_skipped,
        iou=float(iou(ours, theirs).mean()),
        containment=float((inside / area(theirs)).mean()),
        pointing=float(hit.float().mean()),
        area=float(area(ours).mean()),
    )


def crop_quality_table(by_seed: Sequence[Sequence[CropQuality]]) -> str:
    """The rows as a Markdown table, means over seeds; N is the mean over seeds too.

    Args:
        by_seed: The rows of each seed's run.
    """
    rows = []
    for first in by_seed[0]:
        same = [row for rows in by_seed for row in rows if row.method == first.method]
        if len(same) == len(by_seed):
            values = [
                sum(getattr(row, name) for row in same) / len(same)
                for name in ("iou", "containment", "pointing", "area")
            ]
            counts = [sum(row.n for row in same), sum(row.n_skipped for row in same)]
            rows.append(
                [
                    first.method,
                    *(interval_cell(Interval(value, None, None)) for value in values),
                    *(f"{count / len(same):.0f}" for count in counts),
                ]
            )
    heads = ["crops against reference boxes", "IoU", "containment", "pointing", "area"]
    return markdown_table([*heads, "N", "not cropped"], rows)
