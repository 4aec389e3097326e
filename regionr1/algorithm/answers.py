"""Answers: what the policy may write, and the one reading of anything it does write.

An answer is FULL, REGION or INVALID, in one of the forms that an `AnswerForm` describes. INVALID is
an outcome of its own: garbage is never taken for FULL. The short form here is ours, with the word
for FULL that the paper's release has: `NO_CROP_NEEDED`, or `{"bbox_2d": [x1, y1, x2, y2]}`, bare or
inside a `<tool_call>`. The paper's is in `regionr1.algorithm.paper_answer`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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


class AnswerForm(NamedTuple):
    """One way of writing both answers.

    Attributes:
        full: The FULL answer.
        region_prefix: The REGION answer up to its first number.
        region_suffix: The REGION answer after its last number.
        read: Reads an answer, without the reasoning before it, as one action; never raises.
    """

    full: str
    region_prefix: str
    region_suffix: str
    read: Callable[[str], Action]

    def region(self, box_seen: Sequence[int]) -> str:
        """The canonical REGION answer for four integers in the model's own frame."""
        x1, y1, x2, y2 = (int(value) for value in box_seen)
        return f"{self.region_prefix}{x1}, {y1}, {x2}, {y2}{self.region_suffix}"

    def parse(self, text: str) -> Action:
        """Reads any string as exactly one action; never raises.

        Only what follows the last `</think>` counts.
        """
        answer = text.rpartition("</think>")[2]
        if "<think>" in answer:
            return invalid("the reasoning never ends")
        return self.read(answer)


def format_region(box_seen: Sequence[int]) -> str:
    """The short form's REGION answer for four integers in the model's own frame."""
    return SHORT.region(box_seen)


def parse_answer(text: str) -> Action:
    """Reads any string in the short form; words around the answer are allowed, two answers not."""
    return SHORT.parse(text)


def read_box(values: Sequence[float]) -> Action:
    """REGION of four numbers that the model wrote, INVALID where they are no box."""
    if len(values) != 4:
        return invalid("the box is not four numbers")
    if any(abs(value) > MAX_COORDINATE for value in values):
        return invalid("a coordinate is beyond any image")
    x1, y1, x2, y2 = (float(value) for value in values)
    if x2 <= x1 or y2 <= y1:
        return invalid(NO_AREA)
    return Action(Decision.REGION, (x1, y1, x2, y2))


def invalid(reason: str) -> Action:
    """An answer that cannot be read, and why."""
    return Action(Decision.INVALID, None, reason)


def _read_short(answer: str) -> Action:
    says_full = FULL_ANSWER in answer
    boxes = answer.count(_KEY)
    if says_full and boxes:
        return invalid("both NO_CROP_NEEDED and a box")
    if says_full:
        return Action(Decision.FULL)
    if boxes == 0:
        return invalid("neither NO_CROP_NEEDED nor a box")
    if boxes > 1:
        return invalid("more than one box")
    found = _BOX.search(answer)
    if found is None:
        return invalid("the box is not a complete JSON list")
    numbers = [_NUMBER.fullmatch(part) for part in found[1].split(",")]
    values = [float(number[1]) for number in numbers if number is not None]
    return read_box(values if len(values) == len(numbers) else ())


SHORT = AnswerForm(FULL_ANSWER, REGION_PREFIX, REGION_SUFFIX, _read_short)
