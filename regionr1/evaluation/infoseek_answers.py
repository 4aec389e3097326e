"""InfoSeek's official answer score, for people who add a model that reads the ranked pages.

Texts and dates must equal one of the accepted forms; numbers must lie in the accepted range. A
part's score is its mean in percent, and the final score is the harmonic mean of the two parts.
"""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from regionr1.errors import UserError

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_RANGE_HYPHEN = re.compile(r"(?<=[0-9])-")
_NUMBER = re.compile(
    r"[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
)
_PUNCTUATION = str.maketrans("", "", string.punctuation)
LEAST_IOU = 0.5


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and repeated spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def numbers_in(text: str) -> list[float]:
    """The first two numbers of a text; [0, 0] where there is none, as the official scorer reads it.

    A hyphen after a digit separates a range ("9-10"), it is no sign.
    """
    found = _NUMBER.findall(_RANGE_HYPHEN.sub(" - ", text))
    values = [float(number.replace(",", "")) for number in found[:2]]
    return values or [0.0, 0.0]


def is_correct(prediction: str, answer_eval: object) -> bool:
    """Whether a prediction counts as correct.

    Args:
        prediction: What the model answered.
        answer_eval: The accepted forms (a list of texts) or a numerical reference (a list of one
            ``{"wikidata", "range": [lo, hi]}``, or that alone).

    Raises:
        UserError: The reference is neither.
    """
    reference = answer_eval
    if isinstance(reference, list) and len(reference) == 1 and isinstance(reference[0], dict):
        reference = reference[0]
    if isinstance(reference, Mapping):
        return _in_range(numbers_in(prediction), reference)
    if not isinstance(reference, list) or not all(isinstance(form, str) for form in reference):
        raise UserError(f"answer_eval must be texts or one numerical range, got {reference!r}.")
    answer = normalise(prediction)
    return any(answer == normalise(form) for form in reference)


def part_score(correct: Sequence[bool]) -> float:
    """Score of one part in percent, over all question types, rounded as published."""
    if not correct:
        raise UserError("a part without predictions has no score.")
    return round(100 * sum(correct) / len(correct), 2)


def final_score(unseen_question: float, unseen_entity: float) -> float:
    """Harmonic mean of the two parts' scores, rounded as published."""
    a, b = (score or 1e-12 for score in (unseen_question, unseen_entity))
    return round(2 * a * b / (a + b), 2)


def _in_range(values: Sequence[float], reference: Mapping[str, Any]) -> bool:
    try:
        low, high = (float(edge) for edge in reference["range"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"a numerical reference needs 'range': [lo, hi], got {reference!r}."
        ) from error
    if len(values) == 1 or values[0] > values[1]:
        return low <= values[0] <= high
    first, last = values
    if low <= first and last <= high:
        return True
    shared = max(0.0, min(last, high) - max(first, low))
    joined = max(last, high) - min(first, low)
    return joined > 0 and shared / joined >= LEAST_IOU
