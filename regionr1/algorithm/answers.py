"""The answer grammar: what the policy may write, and the one reading of anything it does write.

An answer is FULL (`NO_CROP_NEEDED`), REGION (`{"bbox_2d": [x1, y1, x2, y2]}`, bare or inside a
`<tool_call>`) or INVALID. INVALID is an outcome of its own: garbage is never taken for FULL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

FULL_ANSWER = "NO_CROP_NEEDED"
REGION_PREFIX = '{"bbox_2d": ['
REGION_SUFFIX = "]}"

MAX_COORDINATE = 1e6
"""Beyond any image. A bound, so that no number a model writes can overflow further on."""

NO_AREA = "the box has no area"
"""The reason of an INVALID answer whose box is written in order, but backwards or thin."""

_KEY = '"bbox_2d"'
_BOX = re.compile(_KEY + r"\s*:\s*\[([^\[\]]*)\]\s*[,}]")
_NUMBER = re.compile(r"\s*(-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*")


class Decision(IntEnum):
    """What the policy decided."""

    FULL = 0
    REGION = 1
    INVALID = 2


class Action(NamedTuple):
    """One answer, read.

    Attributes:
        decision: FULL, REGION or INVALID.
        box_seen: (x1, y1, x2, y2) as the model wrote them, for REGION only. Ordered, but maybe
            partly or wholly outside the image.
        reason: Why the answer is INVALID, else empty.
    """

    decision: Decision
    box_seen: tuple[float, float, float, float] | None = None
    reason: str = ""


def format_region(box_seen: Sequence[int]) -> str:
    """The canonical REGION answer for four integers in the model's own frame."""
    x1, y1, x2, y2 = (int(value) for value in box_seen)
    return f"{REGION_PREFIX}{x1}, {y1}, {x2}, {y2}{REGION_SUFFIX}"


def parse_answer(text: str) -> Action:
    """Reads any string as exactly one action; never raises.

    Only what follows the last `</think>` counts. Words around the answer are allowed; two answers
    are not.
    """
    answer = text.rpartition("</think>")[2]
    if "<think>" in answer:
        return _invalid("the reasoning never ends")
    says_full = FULL_ANSWER in answer
    boxes = answer.count(_KEY)
    if says_full and boxes:
        return _invalid("both NO_CROP_NEEDED and a box")
    if says_full:
        return Action(Decision.FULL)
    if boxes == 0:
        return _invalid("neither NO_CROP_NEEDED nor a box")
    if boxes > 1:
        return _invalid("more than one box")
    return _parse_box(answer)


def _parse_box(answer: str) -> Action:
    found = _BOX.search(answer)
    if found is None:
        return _invalid("the box is not a complete JSON list")
    numbers = [_NUMBER.fullmatch(part) for part in found[1].split(",")]
    values = [float(number[1]) for number in numbers if number is not None]
    if len(numbers) != 4 or len(values) != 4:
        return _invalid("the box is not four numbers")
    if any(abs(value) > MAX_COORDINATE for value in values):
        return _invalid("a coordinate is beyond any image")
    x1, y1, x2, y2 = values
    if x2 <= x1 or y2 <= y1:
        return _invalid(NO_AREA)
    return Action(Decision.REGION, (x1, y1, x2, y2))


def _invalid(reason: str) -> Action:
    return Action(Decision.INVALID, None, reason)
