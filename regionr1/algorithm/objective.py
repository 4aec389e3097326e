"""The loss of one gradient step of r-GRPO, put together from its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from regionr1.algorithm.advantages import (
    AdvantageOptions,
    group_advantages,
    stratified_advantages,
)
from regionr1.algorithm.decision import (
    DecisionRewards,
    EstimatorOptions,
    corrected_advantages,
    decision_entropy,
    expected_reward,
    logistic_decision,
    region_weight,
)
from regionr1.algorithm.kl import decision_kl, k3_value, kl_k3
from regionr1.algorithm.losses import LossOptions, LossType, aggregate, policy_loss
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

    def detach(self) -> Scored:
        """Return the same record, cut off from the gradient."""
        return Scored(self.logp.detach(), self.log_p_full.detach(), self.log_p_region.detach())


class Group(NamedTuple):
    """What was sampled and what it earned.

    Attributes:
        mask: (B, G, T) bool, the tokens that the policy gave a probability, not scaffolding.
        forced: (B, G, T) bool, of these the tokens that a quota chose.
        decides: (B, G, T) bool, the tokens that make the decision.
        region: (B, G) bool, where the quota forced REGION.
        decision: (B, G) integers of `Decision`, as read.
        rewards: (B, G).
        full_reward: (B,) reward of FULL; `exact` only.
        other_reward: (B,) reward of an answer that is neither; `exact` only.
        batch_std: Deviation that `batch` scales by, where it is not that of these rewards alone.
    """

    mask: Tensor
    forced: Tensor
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
        return self.mask & ~self.forced & ~self.decides


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
    """Which loss is minimised.

    Attributes:
        decision: See `RGRPO`.
        kl_weight: See `RGRPO`.
        kl: See `RGRPO`.
        estimator: What changes the estimate of the decision's gradient.
        advantage: How rewards become advantages.
        loss: The loss of sampled tokens.
        max_completion_length: The longest completion allowed; `dr_grpo` only.
    """

    decision: Decider = "balanced"
    kl_weight: float = 0.0
    kl: Kl = "k3"
    estimator: EstimatorOptions = EstimatorOptions()
    advantage: AdvantageOptions = AdvantageOptions()
    loss: LossOptions = LossOptions()
    max_completion_length: int | None = None

    def __post_init__(self) -> None:
        corrected, stratified = self.estimator.balanced_correction, self.advantage.stratified
        rules = {
            f"model.kl_weight is {self.kl_weight}: set it to 0 or more": self.kl_weight >= 0,
            f"model.decision is {self.decision!r}: use exact, balanced or on_policy": (
                self.decision in get_args(Decider)
            ),
            f"model.kl is {self.kl!r}: use k3, k3_ratio or exact_decision": (
                self.kl in get_args(Kl)
            ),
            "model.estimator.balanced_correction corrects balanced sampling only: set "
            "model.decision=balanced": not corrected or self.decision == "balanced",
            "model.advantage.stratified and model.estimator.balanced_correction exclude each "
            "other: set one to 0": not (corrected and stratified),
            "model.advantage.stratified needs groups of both decisions, which exact has not: set "
            "it to 0": not (stratified and self.decision == "exact"),
        }
        for rule, holds in rules.items():
            if not holds:
                raise UserError(rule)

    @property
    def averaging(self) -> LossType:
        """The loss type; left out, token sums where the gradient is to be the policy's own."""
        own = self.decision == "exact" or self.estimator.balanced_correction
        return self.loss.loss_type or ("luspo" if own else "grpo")

    @property
    def counts_tokens(self) -> bool:
        """Whether the loss is divided by the tokens of all ranks."""
        return self.averaging in ("dapo", "cispo", "vespo")

    def loss_mask(self, group: Group) -> Tensor:
        """(B, G, T) the tokens that the sampled part of the loss is about."""
        if self.decision == "exact":
            return group.box_mask
        if self.estimator.balanced_correction:
            return group.mask & (group.decides | ~group.forced)
        # Dictated tokens count like sampled ones: from them balanced sampling learns the decision.
        return group.mask

    def kl_mask(self, group: Group) -> Tensor:
        """(B, G, T) the tokens that the sampled part of the KL term is about."""
        if self.decision == "exact" or self.kl == "exact_decision":
            return group.box_mask
        return group.mask


def step_advantages(objective: Objective, group: Group, now: Scored, old: Scored) -> Tensor:
    """How much better each rollout did than it is compared with, without gradient.

    Args:
        objective: Which baseline, scale and weights.
        group: What was sampled and what it earned.
        now: Under the policy, which weighs boxes (`exact`) or decisions (balanced_correction).
        old: Under the policy that sampled.

    Returns:
        (B, G), or (B, G, T) where the tokens of one answer differ.
    """
    options, rewards, std = objective.advantage, group.rewards, group.batch_std
    if objective.decision == "exact":
        # The mean of the others: a box compared with a mean that holds itself is biased.
        boxes = group_advantages(rewards, options.scale_rewards, "leave_one_out", std)
        weight = region_weight(now.log_p_region, objective.estimator.region_floor)
        return weight[:, None] * boxes
    if objective.estimator.balanced_correction:
        group_advantages(rewards)  # refuses rewards that are not numbers
        corrected = corrected_advantages(
            rewards, group.region, group.decides, now.log_p_full, now.log_p_region
        )
        # These weights are the new policy's already: the loss's ratio would count it twice.
        ratio = (now.logp - old.logp).detach().clamp(min=-20.0).exp()  # never a division by 0
        return corrected / ratio.where(group.decides, 1.0)
    if options.stratified > 0:
        return stratified_advantages(
            rewards, group.decision, options.scale_rewards, options.stratified, std
        )
    return group_advantages(rewards, options.scale_rewards, options.baseline, std)


def step_loss(
    objective: Objective,
    group: Group,
    advantages: Tensor,
    now: Scored,
    old: Scored,
    reference: Scored | None = None,
    tokens: TokenCounts | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one gradient step, and what to log of it, scalars.

    Args:
        objective: Which loss.
        group: What was sampled and what it earned.
        advantages: (B, G) or (B, G, T), as `step_advantages` returns them.
        now: Under the policy, with gradient.
        old: Under the policy that sampled, without gradient.
        reference: Under the reference policy; needed where kl_weight is above 0.
        tokens: On several ranks, for losses that are divided by tokens; see `aggregate`.
    """
    stats = policy_loss(
        now.logp,
        old.logp,
        advantages,
        objective.loss_mask(group),
        replace(objective.loss, loss_type=objective.averaging),
        objective.max_completion_length,
        tokens.loss if tokens else None,
    )
    loss = stats.loss
    logged = {
        "clip_ratio/low_mean": stats.clip_low,
        "clip_ratio/high_mean": stats.clip_high,
        "clip_ratio/region_mean": stats.clip_low + stats.clip_high,
    }
    if objective.decision == "exact":
        rewards = _decision_rewards(group)
        expected = expected_reward(now.log_p_full, now.log_p_region, rewards)
        logged["reward"] = expected.detach().mean()
        if objective.estimator.decision_loss == "expected":
            loss = loss - expected.mean()
        else:
            loss = loss - logistic_decision(now.log_p_full, now.log_p_region, rewards).mean()
    if objective.estimator.decision_entropy > 0:
        entropy = decision_entropy(now.log_p_full, now.log_p_region)
        loss = loss - objective.estimator.decision_entropy * entropy.mean()
    if objective.kl_weight > 0:
        if reference is None:
            raise ValueError("a KL term needs the reference's log-probabilities")
        kl, of_kl = _kl(objective, group, now, reference, old, tokens.kl if tokens else None)
        loss = loss + objective.kl_weight * kl
        logged |= of_kl
    return loss, logged


def _decision_rewards(group: Group) -> DecisionRewards:
    if group.full_reward is None or group.other_reward is None:
        raise ValueError("the exact decision needs the rewards of FULL and of neither")
    return DecisionRewards(group.full_reward, group.rewards.mean(1), group.other_reward)


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
    old_logp = None if objective.kl == "k3" else old.logp
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
