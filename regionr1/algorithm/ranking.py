"""Rankings of K candidates and their metrics.

A label is True for a positive; a candidate that is not valid is padding, which is ranked nowhere.
Labels and valid broadcast against the scores. Higher scores rank first and ties keep the input
order. All functions refuse a score that is NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from regionr1.errors import UserError


def check_scores(scores: Tensor, valid: Tensor) -> None:
    """Refuses scores that cannot be ranked.

    Args:
        scores: (..., K).
        valid: (..., K) bool.

    Raises:
        UserError: the score of a valid candidate is NaN or infinite; names the first.
    """
    bad = ~scores.isfinite() & valid
    if bad.any():
        where = bad.nonzero()[0].tolist()
        raise UserError(
            f"The score of query {where[0]} at index {where} is {scores[tuple(where)].item()}: "
            "check the scorer's weights and dtype, and the query image."
        )


def order(scores: Tensor, valid: Tensor) -> Tensor:
    """Candidate indices from best to worst, long (..., K); padding comes last.

    Args:
        scores: (..., K).
        valid: (..., K) bool.
    """
    check_scores(scores, valid)
    return scores.masked_fill(~valid, -torch.inf).argsort(dim=-1, descending=True, stable=True)


def _ranked_labels(scores: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    return (labels & valid).expand(scores.shape).gather(-1, order(scores, valid))


def first_positive_rank(scores: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """1-based rank of the best positive, float (...,); inf when there is none.

    Args:
        scores: (..., K).
        labels: (..., K) bool.
        valid: (..., K) bool.
    """
    ranked = _ranked_labels(scores, labels, valid)
    rank = ranked.int().argmax(dim=-1).float() + 1
    return rank.masked_fill(~ranked.any(dim=-1), torch.inf)


def mrr(scores: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Reciprocal rank of the best positive (...,); 0 when there is none.

    Args:
        scores: (..., K).
        labels: (..., K) bool.
        valid: (..., K) bool.
    """
    return 1 / first_positive_rank(scores, labels, valid)


def ndcg(scores: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """NDCG over all K with gain = label, discount log2(1 + rank) (...,); 0 without a positive.

    Args:
        scores: (..., K).
        labels: (..., K) bool.
        valid: (..., K) bool.
    """
    gain = _ranked_labels(scores, labels, valid).float()
    discount = torch.arange(2, gain.shape[-1] + 2, device=gain.device).log2()
    ideal = (gain.sort(dim=-1, descending=True).values / discount).sum(dim=-1)
    found = (gain / discount).sum(dim=-1)
    return torch.where(ideal > 0, found / ideal, 0.0)


def margin(
    scores: Tensor, labels: Tensor, valid: Tensor, positive: Literal["mean", "max"] = "mean"
) -> Tensor:
    """The positives' score minus the highest negative's (...,), in the scores' unit.

    0 when there is no positive or no negative: nothing is there to be told apart.

    Args:
        scores: (..., K).
        labels: (..., K) bool.
        valid: (..., K) bool.
        positive: What stands for several positives: the mean of their scores, or the highest.
    """
    check_scores(scores, valid)
    is_positive = (labels & valid).expand(scores.shape)
    is_negative = (~labels & valid).expand(scores.shape)
    if positive == "mean":
        count = is_positive.sum(dim=-1).clamp(min=1)
        ours = scores.masked_fill(~is_positive, 0).sum(dim=-1) / count
    else:
        ours = scores.masked_fill(~is_positive, -torch.inf).amax(dim=-1)
    theirs = scores.masked_fill(~is_negative, -torch.inf).amax(dim=-1)
    return torch.where(is_positive.any(dim=-1) & is_negative.any(dim=-1), ours - theirs, 0.0)


def entity_ranking(order: Tensor | Sequence[int], entity_ids: Sequence[str]) -> list[str]:
    """One query's candidate order -> its entities, each at its best candidate's place.

    Args:
        order: Candidate indices (K,), best first and padding last, as `order` gives them.
        entity_ids: The entity of each real candidate; padding has none and falls away.
    """
    indices = order.tolist() if isinstance(order, Tensor) else order
    return list(dict.fromkeys(entity_ids[index] for index in indices[: len(entity_ids)]))
