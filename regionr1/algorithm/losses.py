"""The clipped policy-gradient loss, the KL estimate, and how tokens are averaged into either.

All tensors are (B, G, T): queries, rollouts, completion tokens. `mask` is True on the tokens that
count; padding is False, enters nothing and may hold any value.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from regionr1.errors import UserError

LossType = Literal["grpo", "dr_grpo", "dapo"]


class LossStats(NamedTuple):
    """The loss and what the clip did; all scalars, and only `loss` carries a gradient.

    On-policy (no old log-probabilities) the *value* of the loss says nothing; its gradient does.

    Attributes:
        loss: What to minimise.
        clip_low: Share of tokens held at the lower bound.
        clip_high: Share of tokens held at the upper bound.
        ratio: Mean of pi / pi_old over tokens.
    """

    loss: Tensor
    clip_low: Tensor
    clip_high: Tensor
    ratio: Tensor


def policy_loss(
    logp: Tensor,
    old_logp: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    loss_type: LossType = "grpo",
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    max_completion_length: int | None = None,
) -> LossStats:
    """The clipped surrogate of PPO with r = pi / pi_old, averaged by `aggregate`.

    Per token, -min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A).

    Args:
        logp: (B, G, T) log-probabilities under the policy, with gradient.
        old_logp: (B, G, T) under the policy that sampled; None when that is this policy.
        advantages: (B, G).
        mask: (B, G, T) bool.
        loss_type: See `aggregate`.
        epsilon_low: How far below 1 the ratio still counts.
        epsilon_high: How far above 1 the ratio still counts; DAPO uses 0.28.
        max_completion_length: See `aggregate`.

    Raises:
        UserError: an epsilon out of range, or as `aggregate`.
    """
    if not (0 <= epsilon_low <= 1 and epsilon_high >= 0):
        raise UserError(
            "Clipping: epsilon_low must be between 0 and 1 and epsilon_high at least 0, "
            f"got {epsilon_low} and {epsilon_high}."
        )
    old = logp.detach() if old_logp is None else old_logp
    # Masked before exp, not after: the gradient of a discarded infinity is NaN.
    ratio = (logp - old).masked_fill(~mask, 0.0).exp()
    advantage = advantages[..., None]
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    per_token = -torch.minimum(ratio * advantage, clipped * advantage)
    loss = aggregate(per_token, mask, loss_type, max_completion_length)

    with torch.no_grad():
        tokens = mask.sum().clamp(min=1)
        low = (ratio < 1 - epsilon_low) & (advantage < 0) & mask
        high = (ratio > 1 + epsilon_high) & (advantage > 0) & mask
        mean_ratio = ratio.masked_fill(~mask, 0.0).sum() / tokens
        return LossStats(loss, low.sum() / tokens, high.sum() / tokens, mean_ratio)


def kl_k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(pi || pi_ref) for each token (B, G, T), never negative.

    exp(d) - d - 1 with d = ref_logp - logp; average it with `aggregate`, as the loss.
    """
    gap = ref_logp.detach() - logp
    return gap.expm1() - gap


def aggregate(
    per_token: Tensor,
    mask: Tensor,
    loss_type: LossType = "grpo",
    max_completion_length: int | None = None,
) -> Tensor:
    """Averages (B, G, T) over the tokens of the mask into a scalar; 0 when there are none.

    Args:
        per_token: (B, G, T).
        mask: (B, G, T) bool.
        loss_type: `grpo`: mean over completions of each one's token mean, one without tokens
            counting 0. `dr_grpo`: sum over B G max_completion_length, which favours no length.
            `dapo`: mean over all tokens of this batch (with gradient accumulation or several ranks,
            batches count equally).
        max_completion_length: The longest completion allowed; `dr_grpo` only.

    Raises:
        UserError: an unknown loss type, or `dr_grpo` without its length.
    """
    kept = per_token.masked_fill(~mask, 0.0)
    if loss_type == "grpo":
        return (kept.sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)).mean()
    if loss_type == "dapo":
        return kept.sum() / mask.sum().clamp(min=1)
    if loss_type == "dr_grpo":
        if max_completion_length is None or max_completion_length < 1:
            raise UserError("Loss 'dr_grpo' needs max_completion_length of at least 1.")
        return kept.sum() / (mask.shape[0] * mask.shape[1] * max_completion_length)
    raise UserError(f"Unknown loss type {loss_type!r}: use 'grpo', 'dr_grpo' or 'dapo'.")
