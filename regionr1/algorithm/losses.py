"""The policy-gradient losses by TRL's names, and how tokens are averaged into each.

All tensors are (B, G, T): queries, rollouts, completion tokens. `mask` is True on the tokens that
count; padding is False, enters nothing and may hold any value. With r = pi / pi_old and A the
advantage, a token costs

    grpo bnpo dr_grpo dapo luspo    -min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A)
    cispo                           -detach(min(r, epsilon_high)) A log pi
    sapo                            -4 / tau sigmoid(tau (r - 1)) A, tau by the sign of A
    vespo                           -detach(W^k exp(lambda (1 - W))) A log pi, W = product of r

and `aggregate` says what these are divided by. Where r = 1 every one of them has the gradient of
REINFORCE, so with one gradient step per rollout only the averaging tells them apart.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from regionr1.errors import UserError

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"]
RatioLevel = Literal["token", "sequence"]


@dataclass(frozen=True)
class LossShape:
    """Constants of SAPO and VESPO; the defaults are TRL's.

    Attributes:
        sapo_temperature_pos: tau where the advantage is above 0.
        sapo_temperature_neg: tau elsewhere.
        vespo_k_pos: k where the advantage is at least 0.
        vespo_lambda_pos: lambda there.
        vespo_k_neg: k where it is below 0.
        vespo_lambda_neg: lambda there.
    """

    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    vespo_k_pos: float = 2.0
    vespo_lambda_pos: float = 3.0
    vespo_k_neg: float = 3.0
    vespo_lambda_neg: float = 2.0

    def __post_init__(self) -> None:
        if not all(0 < number < float("inf") for number in astuple(self)):
            raise UserError(f"Loss shape: every constant must be above 0 and finite, got {self}.")


@dataclass(frozen=True)
class LossOptions:
    """The loss of sampled tokens, by TRL's names. The ratio acts from the second step per rollout.

    Attributes:
        loss_type: One of grpo, bnpo, dr_grpo, dapo, luspo, cispo, sapo, vespo. Left out: `luspo`
            (token sums, the objective's own gradient) for the exact decision and
            balanced_correction, `grpo` (token means) otherwise. With another one `exact` weighs the
            box part by it, and the decision as ever.
        importance_sampling_level: Ratio of each `token`, or of the `sequence`: the geometric mean
            of a completion's ratios in the place of each (GSPO).
        epsilon_low: How far below 1 the ratio still counts.
        epsilon_high: How far above 1 the ratio still counts; DAPO uses 0.28. For `cispo` it is the
            largest ratio itself, 5 say.
        delta: Largest ratio that counts at all, also where the advantage is negative (INTELLECT-2).
        shape: Constants of `sapo` and `vespo`.
    """

    loss_type: LossType | None = None
    importance_sampling_level: RatioLevel = "token"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    shape: LossShape = LossShape()

    def __post_init__(self) -> None:
        if self.loss_type not in (None, *get_args(LossType)):
            raise _unknown(self.loss_type)
        if not (0 <= self.epsilon_low <= 1 and 0 <= self.epsilon_high < float("inf")):
            raise UserError(
                "Clipping: epsilon_low must be between 0 and 1 and epsilon_high at least 0, "
                f"got {self.epsilon_low} and {self.epsilon_high}."
            )
        if self.loss_type == "cispo" and self.epsilon_high < 1:
            raise UserError(
                "Loss 'cispo' caps the ratio itself at epsilon_high: set it to 1 or more, 5 say, "
                f"not {self.epsilon_high}."
            )
        if self.delta is not None and not self.delta > 1 + self.epsilon_high:
            raise UserError(
                f"Clipping: delta must be above 1 + epsilon_high = {1 + self.epsilon_high}, got "
                f"{self.delta}."
            )
        if self.importance_sampling_level not in get_args(RatioLevel):
            raise UserError(
                f"Unknown importance_sampling_level {self.importance_sampling_level!r}: use "
                "'token' or 'sequence'."
            )


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
    options: LossOptions = LossOptions("grpo"),
    max_completion_length: int | None = None,
    tokens: Tensor | None = None,
) -> LossStats:
    """The loss of a batch of rollouts, averaged by `aggregate`.

    Args:
        logp: (B, G, T) log-probabilities under the policy, with gradient.
        old_logp: (B, G, T) under the policy that sampled; None when that is this policy.
        advantages: (B, G), or (B, G, T) where tokens differ.
        mask: (B, G, T) bool.
        options: Which loss; its loss_type must be named.
        max_completion_length: See `aggregate`.
        tokens: A scalar; see `aggregate`.

    Raises:
        UserError: as `aggregate`.
    """
    loss_type, shape = options.loss_type, options.shape
    if loss_type is None:
        raise _unknown(None)
    epsilon_low, epsilon_high = options.epsilon_low, options.epsilon_high
    old = logp.detach() if old_logp is None else old_logp
    # Masked before exp, not after: the gradient of a discarded infinity is NaN.
    log_ratio = (logp - old).masked_fill(~mask, 0.0)
    if options.importance_sampling_level == "sequence":
        mean = log_ratio.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
        log_ratio = mean.expand_as(mask).masked_fill(~mask, 0.0)
    ratio = log_ratio.exp()
    advantage = advantages if advantages.ndim == 3 else advantages[..., None]
    low = (ratio < 1 - epsilon_low) & (advantage < 0)
    high = (ratio > 1 + epsilon_high) & (advantage > 0)
    if loss_type == "cispo":
        low, high = torch.zeros_like(mask), (ratio > epsilon_high) & (advantage > 0)
        weight = ratio.detach().clamp(max=epsilon_high)
        per_token = -weight * advantage * logp.masked_fill(~mask, 0.0)
    elif loss_type == "sapo":
        low = high = torch.zeros_like(mask)
        tau = torch.where(advantage > 0, shape.sapo_temperature_pos, shape.sapo_temperature_neg).to(
            ratio
        )
        per_token = -4 / tau * (tau * (ratio - 1)).sigmoid() * advantage
    elif loss_type == "vespo":
        low = high = torch.zeros_like(mask)
        weight = _vespo_weight(log_ratio.detach().sum(-1, keepdim=True), advantage, shape)
        per_token = -weight * advantage * logp.masked_fill(~mask, 0.0)
    else:
        capped = ratio if options.delta is None else ratio.clamp(max=options.delta)
        clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
        per_token = -torch.minimum(capped * advantage, clipped * advantage)
    loss = aggregate(per_token, mask, loss_type, max_completion_length, tokens)

    with torch.no_grad():
        count = mask.sum().clamp(min=1)
        mean_ratio = ratio.masked_fill(~mask, 0.0).sum() / count
        return LossStats(loss, (low & mask).sum() / count, (high & mask).sum() / count, mean_ratio)


def aggregate(
    per_token: Tensor,
    mask: Tensor,
    loss_type: LossType = "grpo",
    max_completion_length: int | None = None,
    tokens: Tensor | None = None,
) -> Tensor:
    """Averages (B, G, T) over the tokens of the mask into a scalar; 0 when there are none.

    Args:
        per_token: (B, G, T).
        mask: (B, G, T) bool.
        loss_type: `grpo`, `sapo`: mean over completions of each one's token mean, one without
            tokens counting 0. `luspo`: mean over completions of each one's token sum, which is the
            gradient of the objective itself. `dr_grpo`: sum over B G max_completion_length, which
            is that too, up to a constant. `bnpo`: mean over all tokens of this batch. `dapo`,
            `cispo`, `vespo`: sum over `tokens`.
        max_completion_length: The longest completion allowed; `dr_grpo` only.
        tokens: A scalar, the mean number of tokens in a rank's batch, which makes `dapo` and its
            like a mean over all ranks; None counts this batch. Batches of an accumulated step count
            equally.

    Raises:
        UserError: an unknown loss type, or `dr_grpo` without its length.
    """
    kept = per_token.masked_fill(~mask, 0.0)
    if loss_type in ("grpo", "sapo"):
        return (kept.sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)).mean()
    if loss_type == "luspo":
        return kept.sum(dim=-1).mean()
    if loss_type in ("bnpo", "dapo", "cispo", "vespo"):
        count = mask.sum() if tokens is None or loss_type == "bnpo" else tokens
        return kept.sum() / count.clamp(min=1)
    if loss_type == "dr_grpo":
        if max_completion_length is None or max_completion_length < 1:
            raise UserError("Loss 'dr_grpo' needs max_completion_length of at least 1.")
        return kept.sum() / (mask.shape[0] * mask.shape[1] * max_completion_length)
    raise _unknown(loss_type)


def _vespo_weight(log_weight: Tensor, advantage: Tensor, shape: LossShape) -> Tensor:
    """exp(lambda) W^k exp(-lambda W) of a completion's whole ratio W, in logarithms."""
    k = torch.where(advantage >= 0, shape.vespo_k_pos, shape.vespo_k_neg)
    rate = torch.where(advantage >= 0, shape.vespo_lambda_pos, shape.vespo_lambda_neg)
    return (rate + k * log_weight - rate * log_weight.exp()).exp()


def _unknown(loss_type: str | None) -> UserError:
    known = ", ".join(get_args(LossType))
    return UserError(f"Unknown loss type {loss_type!r}: use one of {known}.")
