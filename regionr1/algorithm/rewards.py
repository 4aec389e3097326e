"""The reward of an action: how much better its view ranks the candidates than the full image does.

    REGION   w1 dMRR + w2 dNDCG + w3 dRank + w4 dMargin - eta(b) + encouragement
    FULL     full_correct when the full image already ranks a positive first, else 0
    INVALID  -invalid

with dRank = log(1 + rank_full) - log(1 + rank_view) (Region-R1, arXiv 2604.05268). The `release`
variant is what the paper's published code computes instead, for comparisons only: a REGION earns
5 max(w . delta, -0.05), or -1 for a box without area; FULL earns 1 at rank 1; an unparsable answer
counts as FULL; the encouragement is never added.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Literal

import torch
from torch import Tensor

from regionr1.algorithm.answers import Decision
from regionr1.algorithm.ranking import first_positive_rank, margin, mrr, ndcg
from regionr1.errors import UserError

_RELEASE_SCALE = 5.0
_RELEASE_FLOOR = -0.05


@dataclass(frozen=True)
class RewardWeights:
    """What each part of the reward counts; the defaults are the paper's.

    Attributes:
        mrr: Weight of the change in reciprocal rank.
        ndcg: Weight of the change in NDCG.
        rank: Weight of the change in log(1 + rank).
        margin: Weight of the change in margin.
        full_correct: Reward of FULL where the full image already ranks a positive first (not in
            `release`).
        invalid: Penalty of an unparsable answer (not in `release`).
        variant: `paper`, or `release` for what the paper's published code does.
        positive: The margin's reading of several positives: the mean of their scores, or the
            highest.
    """

    mrr: float = 0.2
    ndcg: float = 0.2
    rank: float = 0.2
    margin: float = 0.4
    full_correct: float = 0.2
    invalid: float = 1.0
    variant: Literal["paper", "release"] = "paper"
    positive: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        *numbers, variant, positive = astuple(self)
        if not all(0 <= number < math.inf for number in numbers):
            raise UserError(f"Reward weights must be at least 0 and finite, got {self}.")
        if variant not in ("paper", "release") or positive not in ("mean", "max"):
            raise UserError(
                "Reward: use variant 'paper' or 'release' and positive 'mean' or 'max', "
                f"got {self}."
            )


def reward_parts(
    decision: Tensor,
    view_scores: Tensor,
    full_scores: Tensor,
    labels: Tensor,
    valid: Tensor,
    box_penalty: Tensor,
    bonus: float = 0.0,
    weights: RewardWeights = RewardWeights(),
) -> dict[str, Tensor]:
    """The named, weighted parts of each rollout's reward; `total` adds them up.

    A query without a positive has all deltas 0, and one without a negative a margin part of 0.

    Args:
        decision: (B, G) integers of `Decision`.
        view_scores: (B, G, K) scores of the cut region; read where the decision is REGION, so
            anything may stand elsewhere.
        full_scores: (B, K) scores of the full image.
        labels: (B, K) bool, True = positive.
        valid: (B, K) bool, False = padding.
        box_penalty: (B, G) eta(b), 0..1, 1 = no area inside the image; read where REGION, and by
            the release where INVALID too: 1 there is a box that was written without area.
        bonus: Encouragement of REGION at this step.
        weights: What each part counts.

    Returns:
        float32 (B, G) under `mrr`, `ndcg`, `rank`, `margin` (0 where not REGION), `full`,
        `penalty`, `encouragement`, and for `release` also `floor`, which is what lifts a bad crop
        to the floor.

    Raises:
        UserError: a score that counts is NaN or infinite; names the query's index in the batch.
        ValueError: the shapes disagree, a decision is unknown, or a REGION's penalty is not a
            number.
    """
    _check(decision, view_scores, full_scores, labels, valid, box_penalty)
    region = decision == Decision.REGION
    full_first = first_positive_rank(full_scores.float(), labels, valid)[:, None] == 1
    delta = _weighted_deltas(region, view_scores, full_scores, labels, valid, weights)
    zero = torch.zeros(decision.shape, device=full_scores.device)

    if weights.variant == "release":
        no_area = (decision != Decision.FULL) & (box_penalty >= 1)
        parts = {name: (_RELEASE_SCALE * d).where(~no_area, 0.0) for name, d in delta.items()}
        floor = (_RELEASE_SCALE * _RELEASE_FLOOR - total(parts)).clamp(min=0)
        return parts | {
            "floor": floor,
            "full": torch.where(~region & ~no_area & full_first, 1.0, zero),
            "penalty": torch.where(no_area, -1.0, zero),
            "encouragement": zero,
        }

    is_full, invalid = decision == Decision.FULL, decision == Decision.INVALID
    penalty = torch.where(region, -box_penalty.float(), zero)
    return delta | {
        "full": torch.where(is_full & full_first, weights.full_correct, zero),
        "penalty": torch.where(invalid, -weights.invalid, penalty),
        "encouragement": torch.where(region, bonus, zero),
    }


def total(parts: dict[str, Tensor]) -> Tensor:
    """The reward (B, G): the sum of its parts."""
    return torch.stack(list(parts.values())).sum(dim=0)


def _weighted_deltas(
    region: Tensor,
    view_scores: Tensor,
    full_scores: Tensor,
    labels: Tensor,
    valid: Tensor,
    weights: RewardWeights,
) -> dict[str, Tensor]:
    pool = (labels[:, None], valid[:, None])
    full = full_scores.float()[:, None]
    # The full image stands in wherever no region was cut, so that every delta there is exactly 0.
    view = torch.where(region[..., None], view_scores.float(), full)
    rank_full, rank_view = first_positive_rank(full, *pool), first_positive_rank(view, *pool)
    climb = rank_full.log1p() - rank_view.log1p()
    wider = margin(view, *pool, weights.positive) - margin(full, *pool, weights.positive)
    return {
        "mrr": weights.mrr * (mrr(view, *pool) - mrr(full, *pool)),
        "ndcg": weights.ndcg * (ndcg(view, *pool) - ndcg(full, *pool)),
        "rank": weights.rank * climb.where(rank_full.isfinite(), 0.0),  # inf - inf: no positive
        "margin": weights.margin * wider,
    }


def _check(
    decision: Tensor,
    view_scores: Tensor,
    full_scores: Tensor,
    labels: Tensor,
    valid: Tensor,
    box_penalty: Tensor,
) -> None:
    (queries, group), candidates = decision.shape, full_scores.shape[-1]
    expected = {
        "view_scores": (view_scores, (queries, group, candidates)),
        "full_scores": (full_scores, (queries, candidates)),
        "labels": (labels, (queries, candidates)),
        "valid": (valid, (queries, candidates)),
        "box_penalty": (box_penalty, (queries, group)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {shape}")
    if not ((decision >= Decision.FULL) & (decision <= Decision.INVALID)).all():
        raise ValueError("decision holds a value that is not FULL, REGION or INVALID")
    if not box_penalty[decision == Decision.REGION].isfinite().all():
        raise ValueError("box_penalty of a REGION is NaN or infinite: its box was never filled in")
