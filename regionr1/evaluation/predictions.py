"""Predictions as JSON Lines, whole or not at all."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from regionr1.files import write_whole


@dataclass
class Prediction:
    """What the policy decided for one query and what the ranking became.

    Attributes:
        key: Key of the query.
        question: Its question.
        decision: "FULL", "REGION" or "INVALID".
        box_px: The crop in pixels of the original image, xyxy; None unless the decision is REGION.
        ranking_full: Candidate ids ranked by the full image, best first.
        ranking: Candidate ids ranked by the chosen view, best first; None when the answer was
            INVALID.
        scores: Score of each entry of `ranking`; None when the answer was INVALID.
        p_full: Exact probability of FULL at temperature 1.
        p_full_warm_start: The same before training, that is with the adapter off.
    """

    key: str
    question: str
    decision: str
    box_px: Sequence[int] | None
    ranking_full: Sequence[str]
    ranking: Sequence[str] | None
    scores: Sequence[float] | None
    p_full: float
    p_full_warm_start: float


def prediction_line(prediction: Prediction) -> str:
    """One line of JSON without the line end.

    Raises:
        ValueError: If a score is nan or infinite, or the scores do not fit the ranking.
    """
    if (prediction.ranking is None) != (prediction.scores is None):
        raise ValueError(f"prediction {prediction.key}: ranking and scores must be given together")
    if prediction.ranking is not None and len(prediction.ranking) != len(prediction.scores or ()):
        raise ValueError(
            f"prediction {prediction.key}: one score is needed for each entry of the ranking"
        )
    return json.dumps(asdict(prediction), ensure_ascii=False, allow_nan=False)


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> int:
    """Writes `path` under a temporary name and renames it when it is whole.

    Returns:
        The number of lines.

    Raises:
        UserError: If the folder cannot be written to.
    """
    count = 0

    def write(file: BinaryIO) -> None:
        nonlocal count
        for prediction in predictions:
            file.write(f"{prediction_line(prediction)}\n".encode())
            count += 1

    write_whole(path, write, mend="choose another path for the predictions")
    return count
