"""What a query is answered with: where to look, and the ranking by what is seen there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from regionr1.algorithm.ranking import order
from regionr1.errors import UserError

ScoreFunction = Callable[[Image.Image, str, Any], object]
"""View, question and the query's candidates, as given -> K numbers, the best the highest."""


@dataclass(frozen=True)
class Crop:
    """Where to look.

    Attributes:
        decision: "FULL", "REGION" or "INVALID" (the policy's answer could not be read).
        box_px: The rectangle to cut (xyxy, pixels of the upright image); None unless REGION.
        view: The image to rank by; None when INVALID.
        p_full: Exact probability of keeping the whole image, at temperature 1.
        p_region: Exact probability of beginning a box; what the two leave is that of other answers.
    """

    decision: str
    box_px: tuple[int, int, int, int] | None
    view: Image.Image | None
    p_full: float
    p_region: float


@dataclass(frozen=True)
class Ranking:
    """A ranking of candidates by the chosen view.

    Attributes:
        crop: The view.
        order: Places of the candidates in the given list, best first. None when the policy's answer
            was INVALID: keep the order you had.
        scores: Score of each entry of `order`, a cosine unless you scored; None when INVALID.
    """

    crop: Crop
    order: list[int] | None
    scores: list[float] | None


def ordered(crop: Crop, scores: Tensor) -> Ranking:
    """The ranking that scores (K,) give; equal ones keep the given order."""
    ranked = order(scores[None], torch.ones_like(scores, dtype=torch.bool)[None])[0].tolist()
    return Ranking(crop, ranked, scores[ranked].tolist())


def scored(score: ScoreFunction, crop: Crop, question: str, pool: Any) -> Ranking:
    """The ranking by a user's own scores; none after an INVALID answer.

    Raises:
        UserError: They are not one finite number for each candidate of the pool.
    """
    if crop.view is None:
        return Ranking(crop, None, None)
    scores = torch.as_tensor(score(crop.view, question, pool), dtype=torch.float32).cpu()
    if scores.shape != (len(pool),) or not bool(scores.isfinite().all()):
        raise UserError(
            f"your scoring function gave {tuple(scores.shape)} numbers, some perhaps not finite, "
            f"for {len(pool)} candidates; return one finite number for each"
        )
    return ordered(crop, scores)
