"""The reward of an action: how much better its view ranks the candidates than the full image does.

Three variants share the four deltas, each view against full image, weighted by `RewardWeights`:

    dMRR, dNDCG          the paper's dMRR and dNDCG
    dRank                log((rank_full + 1) / (rank_view + 1)), rank of the first positive
    dMargin              margin_view - margin_full, margin = positive - highest negative

`paper` is Region-R1 as published (arXiv 2604.05268), Eqs. 5 to 8:

    REGION   w1 dMRR + w2 dNDCG + w3 dRank + w4 dMargin - eta(b)      (Eqs. 5 to 7)
    FULL     1 when the full image ranks a positive first, else 0     (Eq. 8)

with the highest positive in the margin, and eta(b) for boxes without area only (x2 <= x1 or
y2 <= y1, of what lies inside the image), which are never compared and so have deltas of 0. The
paper gives no amount for eta(b) and says nothing of answers that cannot be read: `malformed` and
`invalid` are ours.

`own` is this project's: FULL earns `full_correct`, 0.2, the size of what a good crop earns, where
Eq. 8's 1 is more than most crops can; the margin takes the mean of the positives, because one lucky
picture of several is no sign of a good view; and eta(b) grows as a box falls short of the limits of
`CropPrior`, so that a group of bad boxes still tells better from worse.

`release` is what the paper's published code computes, for comparisons only: REGION earns
5 max(w . delta, -0.05) with the mean of the positives, or -1 for a box without area; FULL earns 1
at rank 1; an unparsable answer counts as FULL; the encouragement is never added. Of 1,000 random
cases 991 agree with that code. The others are boxes thinner than a pixel: there the crop divides by
zero, the error is swallowed and the reward becomes 0; here such a box is cut one pixel wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from regionr1.algorithm.answers import Decision
from regionr1.algorithm.ranking import first_positive_rank, margin, mrr, ndcg
from regionr1.errors import UserError

_RELEASE_SCALE = 5.0
_RELEASE_FLOOR = -0.05


Variant = Literal["own", "paper", "release"]
Positive = Literal["mean", "max"]
Labels = Literal["given", "vote"]


class _Meaning(NamedTuple):
    """What a variant says where the weights leave it open."""

    full_correct: float
    positive: Positive


_VARIANTS: dict[Variant, _Meaning] = {
    "own": _Meaning(0.2, "mean"),
    "paper": _Meaning(1.0, "max"),
    "release": _Meaning(1.0, "mean"),
}


@dataclass(frozen=True)
class RewardWeights:
    """What each part of the reward counts; the defaults of the four deltas are the paper's.

    Attributes:
        mrr: Weight of the change in reciprocal rank, w1 (Eq. 5).
        ndcg: Weight of the change in NDCG, w2.
        rank: Weight of the fall of log(1 + rank), rank of the first positive, w3.
        margin: Weight of the change in margin, w4.
        full_correct: Reward of FULL where the full image already ranks a positive first, `own`
            only. Left out 0.2; `paper` (Eq. 8) and `release` say 1.
        malformed: Penalty eta(b) of a box without area (not in `release`). The paper gives no
            amount; 1 is ours.
        invalid: Penalty of an answer that cannot be read (not in `release`). The paper names none;
            1 is ours.
        variant: `own`; `paper` for Eqs. 5 to 8 as published; `release` for what the paper's
            published code does.
        positive: The margin's reading of several positives, `own` only: the `mean` of their
            scores, if left out, or the highest (`max`). `paper` says the highest, `release` the
            mean.
        labels: Who says which candidates are positives: the data (`given`), or a `vote` of the
            query's own views, which reads no label (`regionr1/algorithm/vote.py`). Rewards then
            count by the winner's share of the votes.
        vote_temperature: Of the votes, in cosines; the smaller, the more the clearest view decides.
        vote_share: Least share of the votes; a query whose winner has less is skipped: whatever is
            answered to it earns 0.
    """

    mrr: float = 0.2
    ndcg: float = 0.2
    rank: float = 0.2
    margin: float = 0.4
    full_correct: float | None = None
    malformed: float = 1.0
    invalid: float = 1.0
    variant: Variant = "own"
    positive: Positive | None = None
    labels: Labels = "given"
    vote_temperature: float = 0.05
    vote_share: float = 0.3

    def __post_init__(self) -> None:
        if self.variant not in _VARIANTS or self.positive not in (None, "mean", "max"):
            raise UserError(
                "Reward: use variant 'own', 'paper' or 'release' and positive 'mean' or 'max', "
                f"got {self}."
            )
        for name, own, fixed in zip(
            _Meaning._fields, (self.full_correct, self.positive), self.fixed, strict=True
        ):
            if self.variant != "own" and own not in (None, fixed):
                raise UserError(
                    f"Reward: variant {self.variant!r} fixes {name} to {fixed!r}, got {own!r}: "
                    f"set model.reward.{name} to null, or variant to 'own'."
                )
        if self.labels not in get_args(Labels):
            raise UserError(f"model.reward.labels is {self.labels!r}: use given or vote")
        if not 0 < self.vote_temperature < math.inf:
            raise UserError(
                f"model.reward.vote_temperature is {self.vote_temperature}: set it above 0"
            )
        if not 0 <= self.vote_share <= 1:
            raise UserError(f"model.reward.vote_share is {self.vote_share}: set it from 0 to 1")
        numbers = (
            self.mrr,
            self.ndcg,
            self.rank,
            self.margin,
            self.right_full,
            self.malformed,
            self.invalid,
        )
        if not all(0 <= number < math.inf for number in numbers):
            raise UserError(f"Reward weights must be at least 0 and finite, got {self}.")

    @property
    def fixed(self) -> _Meaning:
        """What the variant says where `full_correct` and `positive` are left out."""
        return _VARIANTS[self.variant]

    @property
    def right_full(self) -> float:
        """Reward of FULL where the full image ranks a positive first."""
        return self.fixed.full_correct if self.full_correct is None else self.full_correct

    @property
    def positives(self) -> Positive:
        """What stands for several positives in the margin."""
        return self.positive or self.fixed.positive


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
        box_penalty: (B, G) 0..1, how bad a box is, 1 = no area inside the image; `own` reads it
            where REGION, `paper` and `release` where INVALID too: 1 there is a box that was written
            without area. These two read nothing below 1.
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

    # Nothing was cut for a box without area, so no view of it is compared.
    no_area = (decision != Decision.FULL) & (box_penalty >= 1)
    if weights.variant != "own":
        delta = {name: part.where(~no_area, 0.0) for name, part in delta.items()}
    if weights.variant == "release":
        parts = {name: _RELEASE_SCALE * part for name, part in delta.items()}
        floor = (_RELEASE_SCALE * _RELEASE_FLOOR - total(parts)).clamp(min=0)
        return parts | {
            "floor": floor,
            "full": torch.where(~region & ~no_area & full_first, weights.right_full, zero),
            "penalty": torch.where(no_area, -1.0, zero),
            "encouragement": zero,
        }

    is_full, invalid = decision == Decision.FULL, decision == Decision.INVALID
    if weights.variant == "paper":
        penalty = torch.where(invalid, -weights.invalid, zero).where(~no_area, -weights.malformed)
    else:
        eta = torch.where(region, weights.malformed * box_penalty.float(), zero)
        penalty = torch.where(invalid, -weights.invalid, -eta)
    return delta | {
        "full": torch.where(is_full & full_first, weights.right_full, zero),
        "penalty": penalty,
        "encouragement": torch.where(region, bonus, zero),
    }


def total(parts: dict[str, Tensor]) -> Tensor:
    """The reward (B, G): the sum of its parts.

    Args:
        parts: Each (B, G).
    """
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
    wider = margin(view, *pool, weights.positives) - margin(full, *pool, weights.positives)
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
