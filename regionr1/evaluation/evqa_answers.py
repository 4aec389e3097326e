"""Encyclopedic-VQA's answer score by exact match, without BEM.

The official score falls back to BEM, a learned judge of equal meaning that needs TensorFlow. What
is computed here is its first half only, a lower bound, and must be reported as exact match.
"""

import re
import string

from regionr1.errors import UserError

NOTE = "exact match only, a lower bound: BEM, the official fallback, was not run"
TYPES = ("templated", "automatic", "multi_answer", "2_hop")
LEAST_IOU = 0.5

_DELETED = str.maketrans("", "", string.punctuation + "‘’´`_")
_DROPPED = frozenset(("the", "answer", "is", "a", "an"))
_SAME = {
    word: str(digit)
    for digit, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0", "entailment": "yes", "true": "yes", "contradiction": "no", "false": "no"}
_PREFIX = "<extra_id_0> "  # what T5 models begin their answers with


def normalise(text: str) -> str:
    """Lower case, without punctuation and filler words, number words as digits.

    The official rules also spell contractions out. That follows the removal of apostrophes and
    renames words one to one, so no comparison depends on it.
    """
    text = re.sub(r"[\n\t]", " ", text.lower()).strip().replace(_PREFIX, "")
    words = (_SAME.get(word, word) for word in text.translate(_DELETED).split())
    return " ".join(word for word in words if word not in _DROPPED)


def exact_match(prediction: str, answer: str, question_type: str) -> bool:
    """Whether a prediction equals one of the annotators' answers.

    Args:
        prediction: What the model answered.
        answer: The published field: annotators joined by ``|``; the items of one multi_answer
            reference joined by ``&&``.
        question_type: As published. A multi_answer prediction lists items with commas or "and",
            and counts when at least half of all items are shared.

    Raises:
        UserError: No reference, or an unknown question type.
    """
    if question_type not in TYPES:
        raise UserError(f"question_type {question_type!r} is unknown; use {', '.join(TYPES)}.")
    references = [reference for reference in answer.split("|") if reference.strip()]
    if not references:
        raise UserError("a question without a reference answer has no score.")
    if question_type != "multi_answer":
        return any(normalise(prediction) == normalise(reference) for reference in references)
    listed = prediction.replace(" and ", ",").replace(" & ", ",").split(",")
    return any(_iou(listed, reference.split("&&")) >= LEAST_IOU for reference in references)


def _iou(a: list[str], b: list[str]) -> float:
    first, second = ({normalise(item) for item in items} - {""} for items in (a, b))
    return len(first & second) / len(first | second) if first | second else 0.0
