"""The loss of one gradient step of r-GRPO, put together from its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from regionr1.algorithm.advantages import group_advantages, stratified_advantages
from regionr1.algorithm.decision import (
    corrected_advantages,
    decision_entropy,
    expected_reward,
    region_weight,
)
from regionr1.algorithm.kl import decision_kl, kl_k3
from regionr1.algorithm.losses import LossShape, LossType, RatioLevel, aggregate, policy_loss
from regionr1.errors import UserError

Decider = Literal["exact", "balanced", "on_policy"]
Kl = Literal["k3", "k3_ratio", "exact_decision"]


class Scored(NamedTuple):
    """Rollouts under one policy.

    Attributes:
        logp: (B, G, T) log-probability of each token.
        log_p_full: (B,) exact log pi(FULL).
        log_p_region: (B,) exact log pi(REGION).
    """

    logp: Tensor
    log_p_full: Tensor
    log_p_region: Tensor


class Group(NamedTuple):
    """What was sampled and what it earned.

    Attributes:
        mask: (B, G, T) bool, the tokens that the policy gave a probability; forced by no grammar.
        dictated: (B, G, T) bool, of these the tokens that a quota chose.
        decides: (B, G, T) bool, the tokens that make the decision.
        region: (B, G) bool, where the quota dictated REGION.
        decision: (B, G) integers of `Decision`, as read.
        rewards: (B, G).
        full_reward: (B,) reward of FULL; `exact` only.
        other_reward: (B,) reward of an answer that is neither; `exact` only.
    """

    mask: Tensor
    dictated: Tensor
    decides: Tensor
    region: Tensor
    decision: Tensor
    rewards: Tensor
    full_reward: Tensor | None = None
    other_reward: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """Which loss is minimised. `RGRPO` documents the fields, under the same names."""

    decision: Decider = "balanced"
    balanced_correction: bool = False
    region_floor: float = 0.0
    decision_entropy: float = 0.0
    scale_rewards: Literal["none", "group", "batch"] = "none"
    baseline: Literal["mean", "leave_one_out"] = "mean"
    stratified: float = 0.0
    loss_type: LossType | None = None
    importance_sampling_level: RatioLevel = "token"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    loss_shape: LossShape = LossShape()
    kl_weight: float = 0.0
    kl: Kl = "k3"
    max_completion_length: int | None = None

    def __post_init__(self) -> None:
        rules = {
            f"model.kl_weight is {self.kl_weight}: set it to 0 or more": self.kl_weight >= 0,
            f"model.decision_entropy is {self.decision_entropy}: set it to 0 or more": (
                self.decision_entropy >= 0
            ),
            f"model.decision is {self.decision!r}: use exact, balanced or on_policy": (
                self.decision in get_args(Decider)
            ),
            f"model.kl is {self.kl!r}: use k3, k3_ratio or exact_decision": (
                self.kl in get_args(Kl)
            ),
            "model.balanced_correction corrects balanced sampling only: set decision=balanced": (
                not self.balanced_correction or self.decision == "balanced"
            ),
            "model.stratified and model.balanced_correction exclude each other: set one to 0": (
                not (self.balanced_correction and self.stratified)
            ),
            "model.stratified needs groups of both decisions, which exact has not: set it to 0": (
                not (self.stratified and self.decision == "exact")
            ),
            f"model.region_floor must be between 0 and 1, got {self.region_floor}": (
                0 <= self.region_floor <= 1
            ),
        }
        for rule, holds in rules.items():
            if not holds:
                raise UserError(rule)

    @property
    def averaging(self) -> LossType:
        """The loss type; left out, token sums for `exact`, whose gradient is then exact too."""
        return self.loss_type or ("luspo" if self.decision == "exact" else "grpo")

    @property
    def counts_tokens(self) -> bool:
        """Whether the loss is divided by the tokens of all ranks."""
        return self.averaging in ("dapo", "cispo", "vespo")


def step_loss(
    objective: Objective,
    group: Group,
    now: Scored,
    old_logp: Tensor | None = None,
    reference: Scored | None = None,
    tokens: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one gradient step, and what to log of it, scalars.

    Args:
        objective: Which loss.
        group: What was sampled and what it earned.
        now: Under the policy, with gradient.
        old_logp: (B, G, T) under the policy that sampled; None when that is this policy.
        reference: Under the reference policy; needed where kl_weight is above 0.
        tokens: Tokens of a rank's batch, averaged over ranks; see `aggregate`.
    """
    mask, advantages = _advantages(objective, group, now)
    stats = policy_loss(
        now.logp, old_logp, advantages, mask, objective.averaging, objective.epsilon_low,
        objective.epsilon_high, objective.max_completion_length,
        objective.importance_sampling_level, objective.delta, objective.loss_shape, tokens,
    )  # fmt: skip
    loss = stats.loss
    logged = {
        "clip_ratio/low_mean": stats.clip_low,
        "clip_ratio/high_mean": stats.clip_high,
        "clip_ratio/region_mean": stats.clip_low + stats.clip_high,
    }
    if objective.decision == "exact":
        expected = _expected(group, now)
        loss = loss - expected.mean()
        logged["reward"] = expected.detach().mean()
    if objective.decision_entropy > 0:
        entropy = decision_entropy(now.log_p_full, now.log_p_region)
        loss = loss - objective.decision_entropy * entropy.mean()
    if objective.kl_weight > 0:
        if reference is None:
            raise ValueError("a KL term needs the reference's log-probabilities")
        kl = _kl(objective, group, now, reference, old_logp, tokens)
        loss = loss + objective.kl_weight * kl
        logged["kl"] = kl.detach()
    return loss, logged


def _advantages(objective: Objective, group: Group, now: Scored) -> tuple[Tensor, Tensor]:
    """The tokens that the sampled part of the loss is about, and their advantages."""
    rewards, scale = group.rewards, objective.scale_rewards
    if objective.decision == "exact":
        # The mean of the others: a box compared with a mean that holds itself is biased.
        boxes = group_advantages(rewards, scale, "leave_one_out")
        weight = region_weight(now.log_p_region, objective.region_floor)
        return group.mask & ~group.dictated & ~group.decides, weight[:, None] * boxes
    if objective.balanced_correction:
        group_advantages(rewards)  # refuses rewards that are not numbers
        return group.mask & (group.decides | ~group.dictated), corrected_advantages(
            rewards, group.region, group.decides, now.log_p_full, now.log_p_region
        )
    # Dictated tokens count like sampled ones: from them balanced sampling learns the decision.
    if objective.stratified > 0:
        return group.mask, stratified_advantages(
            rewards, group.decision, scale, objective.stratified
        )
    return group.mask, group_advantages(rewards, scale, objective.baseline)


def _expected(group: Group, now: Scored) -> Tensor:
    if group.full_reward is None or group.other_reward is None:
        raise ValueError("the exact decision needs the rewards of FULL and of neither")
    return expected_reward(
        now.log_p_full,
        now.log_p_region,
        group.full_reward,
        group.rewards.mean(1),
        group.other_reward,
    )


def _kl(
    objective: Objective,
    group: Group,
    now: Scored,
    reference: Scored,
    old_logp: Tensor | None,
    tokens: Tensor | None,
) -> Tensor:
    exact = objective.decision == "exact"
    mask, kind = group.mask, objective.averaging
    length = objective.max_completion_length
    if objective.kl == "k3" and not exact:
        return aggregate(kl_k3(now.logp, reference.logp), mask, kind, length, tokens)
    old = None
    if objective.kl != "k3":
        old = now.logp.detach() if old_logp is None else old_logp
    if objective.kl != "exact_decision" and not exact:
        return aggregate(kl_k3(now.logp, reference.logp, old), mask, kind, length, tokens)
    # The chain rule: KL of the decision, and of the box as often as there is one.
    decided = decision_kl(*now[1:], *reference[1:]).mean()
    k3 = kl_k3(now.logp, reference.logp, old)
    if exact:
        k3 = k3 * now.log_p_region.exp()[:, None, None]
    rest = mask & ~group.dictated & ~group.decides
    return decided + aggregate(k3, rest, kind, length, tokens)
