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
from regionr1.algorithm.kl import decision_kl, k3_value, kl_k3
from regionr1.algorithm.losses import (
    LossShape,
    LossType,
    RatioLevel,
    aggregate,
    check_ratio,
    policy_loss,
)
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
        batch_std: Deviation that `batch` scales by, where it is not that of these rewards alone.
    """

    mask: Tensor
    dictated: Tensor
    decides: Tensor
    region: Tensor
    decision: Tensor
    rewards: Tensor
    full_reward: Tensor | None = None
    other_reward: Tensor | None = None
    batch_std: Tensor | None = None

    @property
    def box_mask(self) -> Tensor:
        """(B, G, T) bool, the sampled tokens that do not make the decision: those of boxes."""
        return self.mask & ~self.dictated & ~self.decides


class TokenCounts(NamedTuple):
    """Tokens of a rank's batch, averaged over ranks, which some losses are divided by.

    Attributes:
        loss: Those that the sampled part of the loss is about.
        kl: Those that the sampled part of the KL term is about.
    """

    loss: Tensor
    kl: Tensor


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
            "model.stratified compares with means only: set model.baseline to mean": (
                not (self.stratified and self.baseline != "mean")
            ),
            f"model.region_floor must be between 0 and 1, got {self.region_floor}": (
                0 <= self.region_floor <= 1
            ),
        }
        for rule, holds in rules.items():
            if not holds:
                raise UserError(rule)
        check_ratio(
            self.averaging, self.epsilon_low, self.epsilon_high, self.importance_sampling_level,
            self.delta,
        )  # fmt: skip

    @property
    def averaging(self) -> LossType:
        """The loss type; left out, token sums where the gradient is to be the policy's own."""
        own = self.decision == "exact" or self.balanced_correction
        return self.loss_type or ("luspo" if own else "grpo")

    @property
    def counts_tokens(self) -> bool:
        """Whether the loss is divided by the tokens of all ranks."""
        return self.averaging in ("dapo", "cispo", "vespo")

    def loss_mask(self, group: Group) -> Tensor:
        """(B, G, T) the tokens that the sampled part of the loss is about."""
        if self.decision == "exact":
            return group.box_mask
        if self.balanced_correction:
            return group.mask & (group.decides | ~group.dictated)
        # Dictated tokens count like sampled ones: from them balanced sampling learns the decision.
        return group.mask

    def kl_mask(self, group: Group) -> Tensor:
        """(B, G, T) the tokens that the sampled part of the KL term is about."""
        if self.decision == "exact" or self.kl == "exact_decision":
            return group.box_mask
        return group.mask


def step_loss(
    objective: Objective,
    group: Group,
    now: Scored,
    old: Scored | None = None,
    reference: Scored | None = None,
    tokens: TokenCounts | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one gradient step, and what to log of it, scalars.

    Args:
        objective: Which loss.
        group: What was sampled and what it earned.
        now: Under the policy, with gradient.
        old: Under the policy that sampled, without gradient; None when that is this policy.
        reference: Under the reference policy; needed where kl_weight is above 0.
        tokens: On several ranks, for losses that are divided by tokens; see `aggregate`.
    """
    advantages = _advantages(objective, group, now, old or now)
    stats = policy_loss(
        now.logp, old.logp if old else None, advantages, objective.loss_mask(group),
        objective.averaging, objective.epsilon_low, objective.epsilon_high,
        objective.max_completion_length, objective.importance_sampling_level, objective.delta,
        objective.loss_shape, tokens.loss if tokens else None,
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
        kl, of_kl = _kl(objective, group, now, reference, old or now, tokens.kl if tokens else None)
        loss = loss + objective.kl_weight * kl
        logged |= of_kl
    return loss, logged


def _advantages(objective: Objective, group: Group, now: Scored, old: Scored) -> Tensor:
    """(B, G) or (B, G, T)."""
    rewards, scale, std = group.rewards, objective.scale_rewards, group.batch_std
    if objective.decision == "exact":
        # The mean of the others: a box compared with a mean that holds itself is biased.
        boxes = group_advantages(rewards, scale, "leave_one_out", std)
        weight = region_weight(now.log_p_region, objective.region_floor)
        return weight[:, None] * boxes
    if objective.balanced_correction:
        group_advantages(rewards)  # refuses rewards that are not numbers
        corrected = corrected_advantages(
            rewards, group.region, group.decides, now.log_p_full, now.log_p_region
        )
        # These weights are the new policy's already: the loss's ratio would count it twice.
        ratio = (now.logp - old.logp).detach().clamp(min=-20.0).exp()  # never a division by 0
        return corrected / ratio.where(group.decides, 1.0)
    if objective.stratified > 0:
        return stratified_advantages(rewards, group.decision, scale, objective.stratified, std)
    return group_advantages(rewards, scale, objective.baseline, std)


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
    old: Scored,
    tokens: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The KL term, and what to log of it: TRL's mean over tokens, whatever averages the loss."""
    exact = objective.decision == "exact"
    old_logp = None if objective.kl == "k3" else old.logp.detach()
    mask = objective.kl_mask(group)
    value = k3_value(now.logp, reference.logp, old_logp)
    logged = {"kl": value.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)}
    k3 = kl_k3(now.logp, reference.logp, old_logp)
    if exact:
        k3 = k3 * now.log_p_region.exp()[:, None, None]
    sampled = aggregate(k3, mask, objective.averaging, objective.max_completion_length, tokens)
    if not exact and objective.kl != "exact_decision":
        return sampled, logged
    # The chain rule: KL of the decision, and of the box as often as there is one.
    decision = decision_kl(*now[1:], *reference[1:]).mean()
    return decision + sampled, logged | {"decision/kl": decision.detach()}
