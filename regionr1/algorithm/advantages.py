"""Group-relative advantages: how much better a rollout did than the others of its query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from regionr1.errors import UserError

Scale = Literal["none", "group", "batch"]
Baseline = Literal["mean", "leave_one_out"]

_EPSILON = 1e-4  # as TRL's, so that runs compare


@dataclass(frozen=True)
class AdvantageOptions:
    """How rewards become advantages.

    Attributes:
        scale_rewards: Divide advantages by the standard deviation of the `group` (the paper's
            Eq. 9), of the `batch` (of all ranks), or by nothing (`none`, as the paper's release).
            `exact` has advantages of boxes only: what FULL and REGION earn is never divided there.
        baseline: What a reward is compared with: the group's `mean`, or `leave_one_out`, which
            `exact` always takes.
        stratified: Share of the advantage taken among rollouts of the same decision only. The
            paper's "conditional on d" can be read both ways: 0 is Eq. 9 as written, over the whole
            group; 1 takes mean and deviation within each decision's own rollouts.
    """

    scale_rewards: Scale = "none"
    baseline: Baseline = "mean"
    stratified: float = 0.0

    def __post_init__(self) -> None:
        if self.scale_rewards not in get_args(Scale) or self.baseline not in get_args(Baseline):
            raise UserError(
                "model.advantage: use scale_rewards none, group or batch and baseline mean or "
                f"leave_one_out, got {self.scale_rewards!r} and {self.baseline!r}"
            )
        if not 0 <= self.stratified <= 1:
            raise UserError(
                f"model.advantage.stratified is {self.stratified}: set it between 0 and 1"
            )
        if self.stratified and self.baseline != "mean":
            raise UserError(
                "model.advantage.stratified compares with means only: set model.advantage.baseline "
                "to mean"
            )


def group_advantages(
    rewards: Tensor,
    scale: Scale = "none",
    baseline: Baseline = "mean",
    batch_std: Tensor | None = None,
) -> Tensor:
    """Rewards (B, G) -> advantages (B, G).

    Args:
        rewards: (B, G).
        scale: Divide by nothing (Dr. GRPO, arXiv 2503.20783), the group's standard deviation
            (GRPO), or the batch's. Rank rewards vary by orders of magnitude from group to group,
            and dividing by the group's would turn a 0.001 wider margin into a unit advantage: hence
            `none` by default.
        baseline: The group's mean, or the mean of the other G - 1 rollouts (RLOO, arXiv
            2402.14740), which is unbiased for any G.
        batch_std: A scalar, the deviation that `batch` divides by; left out, that of `rewards`.

    Returns:
        (B, G); exactly 0 throughout a group whose rewards are all equal.

    Raises:
        UserError: fewer than 2 rollouts in a group, a reward that is NaN or infinite, or an unknown
            option.
    """
    _check(rewards)
    if scale not in get_args(Scale) or baseline not in get_args(Baseline):
        raise UserError(
            "Advantages: use scale 'none', 'group' or 'batch' and baseline 'mean' or "
            f"'leave_one_out', got {scale!r} and {baseline!r}."
        )
    group_size = rewards.shape[1]
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if baseline == "leave_one_out":
        advantages = advantages * (group_size / (group_size - 1))
    if scale == "group":
        advantages = advantages / (rewards.std(dim=1, keepdim=True) + _EPSILON)
    elif scale == "batch":
        advantages = advantages / _batch_scale(rewards, batch_std)
    # The mean of equal floats may miss them by a bit; such a group says nothing, not little.
    return advantages.masked_fill(_tied(rewards), 0.0)


def stratified_advantages(
    rewards: Tensor,
    decision: Tensor,
    scale: Scale,
    blend: float,
    batch_std: Tensor | None = None,
) -> Tensor:
    """Advantages (B, G) partly within a group's own decisions (Stratified GRPO, arXiv 2510.06214).

    A group's mean over FULL and REGION together shifts every box by the gap between the two
    decisions. Inside its stratum a rollout is compared with its like only. That alone would delete
    what tells when to crop, hence the blend.

    Args:
        rewards: (B, G).
        decision: (B, G) integers; rollouts of a query with the same one are a stratum.
        scale: See `group_advantages`; `group` divides a stratum by its own deviation.
        blend: Share of the stratified advantage, 0 to 1; the rest is `group_advantages`.
        batch_std: A scalar; see `group_advantages`.

    Raises:
        UserError: a blend outside 0..1, or as `group_advantages`.
    """
    if not 0 <= blend <= 1:
        raise UserError(f"stratified must be between 0 and 1, got {blend}.")
    plain = group_advantages(rewards, scale, batch_std=batch_std)
    like = (decision[:, :, None] == decision[:, None]).to(rewards)  # (B, G, G)
    count = like.sum(-1)
    centred = rewards - (like @ rewards[..., None]).squeeze(-1) / count
    if scale == "group":
        square = (like @ centred.square()[..., None]).squeeze(-1)
        centred = centred / ((square / (count - 1).clamp(min=1)).sqrt() + _EPSILON)
    elif scale == "batch":
        centred = centred / _batch_scale(rewards, batch_std)
    tied = ((rewards[:, :, None] == rewards[:, None]) | (like == 0)).all(-1)
    return blend * centred.masked_fill(tied, 0.0) + (1 - blend) * plain


def dead_group_fraction(rewards: Tensor) -> Tensor:
    """Share of the B groups whose G rewards are all equal, a scalar 0..1: they teach nothing.

    Args:
        rewards: (B, G).

    Raises:
        UserError: as `group_advantages`.
    """
    _check(rewards)
    return _tied(rewards).float().mean()


def _batch_scale(rewards: Tensor, batch_std: Tensor | None) -> Tensor:
    return (rewards.std() if batch_std is None else batch_std) + _EPSILON


def _tied(rewards: Tensor) -> Tensor:
    return (rewards == rewards[:, :1]).all(dim=1, keepdim=True)


def _check(rewards: Tensor) -> None:
    if rewards.shape[1] < 2:
        raise UserError(
            f"A group of {rewards.shape[1]} compares with nothing: set group_size to 2 or more."
        )
    bad = ~rewards.isfinite()
    if bad.any():
        query, rollout = bad.nonzero()[0].tolist()
        value = rewards[query, rollout].item()
        raise UserError(
            f"The reward of query {query}, rollout {rollout} is {value}: "
            "check the scorer's output and the reward weights."
        )
