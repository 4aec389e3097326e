"""The decision between FULL and REGION, with its gradient taken exactly instead of sampled.

FULL has one known reward R_F, and its probability p_F and REGION's p_R can be read from the logits
at the decision. So the policy's expected reward needs samples of boxes only:

    J = p_F R_F + p_R E[R(box) | REGION] + (1 - p_F - p_R) R_O

with R_O the reward of an answer that begins as neither. `exact` differentiates this as it stands
(Rao-Blackwell over the decision, arXiv 1810.04777): all G rollouts draw boxes, their mean reward V
stands for the expectation, and

    grad J = grad p_F (R_F - R_O) + grad p_R (V - R_O) + p_R mean_i (R_i - b_i) grad log pi(box_i)

with b_i the mean of the other rollouts. It is unbiased and the decision adds no variance.

In the log-odds z of REGION against FULL the decision's part is p_F p_R (V - R_F) where nothing else
is answered: it vanishes where the policy is sure, however wrong. As both rewards are known, the
decision is also a classification whose mistakes cost |V - R_F|, which `logistic` learns by

    |V - R_F| log sigmoid(z sign(V - R_F))

instead (cost-proportionate weights: Zadrozny, Langford and Abe, ICDM 2003). Over queries that look
alike it is best where sigmoid(z) is the share of what REGION would gain in all that is at stake, so
REGION is preferred exactly where it earns more on average, as the expected reward has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from regionr1.errors import UserError

DecisionLoss = Literal["expected", "logistic"]


@dataclass(frozen=True)
class EstimatorOptions:
    """What changes the estimate of the decision's gradient.

    Attributes:
        decision_loss: What teaches the decision under `exact`: `expected`, the expected reward
            itself, whose gradient vanishes where the policy is sure; or `logistic`, a
            classification of queries by whether FULL or REGION earned more, each weighed by the
            difference, which prefers the same decisions and does not vanish.
        balanced_correction: Weigh a balanced group by what the policy would have decided, so that
            its gradient is the policy's own. Sets baseline and scale_rewards aside.
        region_floor: Least weight of the box part under `exact`, which is pi(REGION) otherwise. A
            policy that hardly crops keeps learning boxes, with a bias: as if it cropped so often.
        decision_entropy: Weight of a bonus on the entropy of FULL against REGION.
    """

    decision_loss: DecisionLoss = "expected"
    balanced_correction: bool = False
    region_floor: float = 0.0
    decision_entropy: float = 0.0

    def __post_init__(self) -> None:
        if self.decision_loss not in get_args(DecisionLoss):
            raise UserError(
                f"model.estimator.decision_loss is {self.decision_loss!r}: use expected or logistic"
            )
        if not 0 <= self.region_floor <= 1:
            raise UserError(
                f"model.estimator.region_floor is {self.region_floor}: set it between 0 and 1"
            )
        if not self.decision_entropy >= 0:
            raise UserError(
                f"model.estimator.decision_entropy is {self.decision_entropy}: set it to 0 or more"
            )


class DecisionRewards(NamedTuple):
    """What each decision about a query earns.

    Attributes:
        full: (B,) R_F.
        region: (B,) V, the mean reward of the query's REGION rollouts.
        other: (B,) R_O, of an answer that begins as neither.
    """

    full: Tensor
    region: Tensor
    other: Tensor


def expected_reward(
    log_p_full: Tensor,
    log_p_region: Tensor,
    rewards: DecisionRewards,
) -> Tensor:
    """The policy's expected reward of each query, (B,); differentiable in the two logarithms.

    Args:
        log_p_full: (B,) log pi(FULL).
        log_p_region: (B,) log pi(REGION).
        rewards: What each decision earns.
    """
    full, region, other = (reward.detach() for reward in rewards)
    # p itself, not log p, carries the gradient: it is finite and right at p = 0 and p = 1.
    return other + log_p_full.exp() * (full - other) + log_p_region.exp() * (region - other)


def logistic_decision(
    log_p_full: Tensor,
    log_p_region: Tensor,
    rewards: DecisionRewards,
) -> Tensor:
    """What `logistic` maximises in the decision, (B,); differentiable in the two logarithms.

    An answer that begins as neither loses what the better of the two would have earned, as in the
    expected reward.

    Args:
        log_p_full: (B,) log pi(FULL).
        log_p_region: (B,) log pi(REGION).
        rewards: What each decision earns.
    """
    full, region, other = (reward.detach() for reward in rewards)
    gap = region - full
    right = gap.abs() * logsigmoid((log_p_region - log_p_full) * gap.sign())
    readable = log_p_full.exp() + log_p_region.exp()
    return right + readable * (torch.maximum(full, region) - other)


def region_weight(log_p_region: Tensor, floor: float = 0.0) -> Tensor:
    """What the box part of the exact gradient weighs, (B,), without gradient: max(p_R, floor).

    A policy that hardly ever crops learns hardly anything about boxes. The floor keeps it learning,
    at the price of a bias: boxes are then improved as if REGION were chosen that often.

    Args:
        log_p_region: (B,) log pi(REGION).
        floor: The least weight, 0 to 1.

    Raises:
        UserError: a floor outside 0..1.
    """
    if not 0 <= floor <= 1:
        raise UserError(f"region_floor must be between 0 and 1, got {floor}.")
    return log_p_region.detach().exp().clamp(min=floor)


def decision_entropy(log_p_full: Tensor, log_p_region: Tensor) -> Tensor:
    """Entropy (B,) in nats of FULL against REGION, 0 to log 2; differentiable.

    Of the two alone: a bonus on it never rewards answers that are neither.

    Args:
        log_p_full: (B,) log pi(FULL).
        log_p_region: (B,) log pi(REGION).
    """
    odds = log_p_full - log_p_region
    return -(odds.sigmoid() * logsigmoid(odds) + (-odds).sigmoid() * logsigmoid(-odds))


def corrected_advantages(
    rewards: Tensor, region: Tensor, decides: Tensor, log_p_full: Tensor, log_p_region: Tensor
) -> Tensor:
    """Advantages (B, G, T) that undo the quota of balanced sampling.

    A balanced group holds n_R REGION and n_F FULL whatever the policy wants; weights p_R G / n_R
    and p_F G / n_F, p normalised over the two, make its mean gradient that of the policy's own
    objective. The token that decides is compared with the group's weighted mean; the tokens of a
    box with the other boxes, because a mean that holds the reward it is taken from is biased.

    Args:
        rewards: (B, G).
        region: (B, G) bool, REGION was forced; elsewhere FULL was.
        decides: (B, G, T) bool, the tokens that make the decision.
        log_p_full: (B,) log pi(FULL).
        log_p_region: (B,) log pi(REGION).

    Raises:
        ValueError: a group without REGION or without FULL.
    """
    n_region = region.sum(1, keepdim=True)
    n_full = (~region).sum(1, keepdim=True)
    if not ((n_region > 0) & (n_full > 0)).all():
        raise ValueError("the correction needs both decisions in every group")
    p_full = (log_p_full - log_p_region).detach().sigmoid()[:, None].to(rewards)
    weight = torch.where(region, (1 - p_full) / n_region, p_full / n_full) * region.shape[1]
    value = (weight * rewards).mean(1, keepdim=True)
    boxes = (rewards * region).sum(1, keepdim=True)
    full = (rewards * ~region).sum(1, keepdim=True) / n_full
    others = (boxes - rewards) / (n_region - 1).clamp(min=1)
    box = rewards - torch.where(n_region > 1, others, full)
    return weight[..., None] * torch.where(decides, (rewards - value)[..., None], box[..., None])
