"""The estimators of the decision's gradient against the true gradient, on a policy so small that
every group it could ever sample is listed: mean and variance are exact, without Monte Carlo.

An answer is FULL, REGION and two tokens of three each, or neither: 11 in all.
"""

import itertools
import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regionr1.algorithm.advantages import AdvantageOptions
from regionr1.algorithm.decision import (
    DecisionRewards,
    EstimatorOptions,
    corrected_advantages,
    decision_entropy,
    expected_reward,
    logistic_decision,
    region_weight,
)
from regionr1.algorithm.losses import LossOptions
from regionr1.algorithm.objective import Group, Objective, Scored, step_advantages, step_loss
from regionr1.errors import UserError

FULL, REGION, OTHER = 0, 1, 2
ANSWERS = [(FULL, 0, 0), *((REGION, a, b) for a in range(3) for b in range(3)), (OTHER, 0, 0)]
BOXES = ANSWERS[1:-1]
R_FULL, R_OTHER, G = 0.3, -1.0, 3
R_BOX = torch.tensor([[0.0, 0.9, 0.1], [-0.4, 0.5, 0.2], [0.7, -0.1, 1.0]], dtype=torch.float64)
BASE = [0.2, -0.4, 0.1, 0.3, 0.0, -0.5, 0.1, 0.6, -0.2, 0.4, -0.3, 0.2]  # first, then second token


def weights(decision: list[float]) -> torch.Tensor:
    """(15,) logits of the decision, of the first token and of the second after each first."""
    return torch.tensor([*decision, *BASE], dtype=torch.float64)


# Both decisions are common; REGION is rare; neither ever happens.
STARTS = {
    "even": weights([0.4, 0.1, -0.5]),
    "region rare": weights([3.5, 0.1, -1.5]),
    "grammar": weights([2.0, 0.1, -80.0]),
}


def tables(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of the decision (N, 3), the first token (N, 3), the second (N, 3, 3)."""
    first, second = theta[:, 3:6], theta[:, 6:].view(-1, 3, 3)
    return theta[:, :3].log_softmax(-1), first.log_softmax(-1), second.log_softmax(-1)


def reward(answer: tuple[int, int, int]) -> float:
    decision, a, b = answer
    return {FULL: R_FULL, OTHER: R_OTHER}.get(decision, R_BOX[a, b].item())


def objective(theta: torch.Tensor, only_two: bool = False) -> float:
    """The expected reward, over all answers; or given that the answer is FULL or REGION."""
    decision, first, second = (table[0].exp() for table in tables(theta[None]))
    box = (first[:, None] * second * R_BOX).sum()
    value = decision[FULL] * R_FULL + decision[REGION] * box
    return (value / decision[:2].sum() if only_two else value + decision[OTHER] * R_OTHER).item()


def true_gradient(theta: torch.Tensor, only_two: bool = False) -> torch.Tensor:
    """Of the expected reward, by central differences."""
    step = 1e-6 * torch.eye(len(theta), dtype=torch.float64)
    ends = [(objective(theta + s, only_two), objective(theta - s, only_two)) for s in step]
    return torch.tensor([(up - down) / 2e-6 for up, down in ends], dtype=torch.float64)


def objective_of(**options) -> Objective:
    """An objective from options by their own names, whatever group they stand in."""

    def taken(kind: type) -> object:
        names = {field.name for field in fields(kind)} & options.keys()
        return kind(**{name: options.pop(name) for name in names})

    groups = {"estimator": EstimatorOptions, "advantage": AdvantageOptions, "loss": LossOptions}
    found = {name: taken(kind) for name, kind in groups.items()}
    return Objective(**found, **options)


def loss_of(objective: Objective, group: Group, now: Scored, old=None, reference=None):
    """The step's loss and what it logs; without `old` the policy itself has sampled."""
    old = old or now.detach()
    advantages = step_advantages(objective, group, now, old)
    return step_loss(objective, group, advantages, now, old, reference)


def estimate(
    theta: torch.Tensor, decider: str, sampler: torch.Tensor | None = None, **options
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (15,) and summed variance of the gradient that one group gives, over all groups.

    Args:
        theta: The policy.
        decider: As `model.decision`.
        sampler: The policy that sampled; None when that is theta.
        **options: Of the objective.
    """
    regions = {"exact": G, "balanced": G - 1, "on_policy": 0}[decider]
    slots = [BOXES] * regions + [[ANSWERS[0]] if decider == "balanced" else ANSWERS] * (G - regions)
    groups = list(itertools.product(*slots))
    each = theta.expand(len(groups), -1).clone().requires_grad_()  # a policy per group
    ids = torch.tensor(groups)  # (N, G, 3)
    row = torch.arange(len(groups))[:, None]

    def scored(weights: torch.Tensor) -> Scored:
        decision, first, second = tables(weights)
        logp = torch.stack(
            [
                decision[row, ids[..., 0]],
                first[row, ids[..., 1]],
                second[row, ids[..., 1], ids[..., 2]],
            ],
            dim=-1,
        )
        return Scored(logp, decision[:, FULL], decision[:, REGION])

    now = scored(each)
    old = None if sampler is None else scored(sampler.expand(len(groups), -1))
    mask = torch.ones_like(now.logp, dtype=torch.bool)
    mask[..., 1:] = (ids[..., :1] == REGION).expand(-1, -1, 2)
    decides = torch.zeros_like(mask)
    decides[..., 0] = True
    forced = decides if decider != "on_policy" else torch.zeros_like(mask)
    region = torch.arange(G).expand(len(groups), -1) < regions
    rewards = torch.tensor([[reward(a) for a in group] for group in groups], dtype=torch.float64)
    constant = torch.ones(len(groups), dtype=torch.float64)
    group = Group(
        mask, forced, decides, region, ids[..., 0], rewards, R_FULL * constant, R_OTHER * constant
    )
    settings = {"loss_type": "luspo", "baseline": "leave_one_out"} | options
    loss, _ = loss_of(objective_of(decision=decider, **settings), group, now, old)
    loss.backward()
    gradients = -each.grad * len(groups)  # the loss is a mean over groups
    chance = ((old or now).logp.detach() * mask * ~forced).sum((1, 2)).exp()
    assert chance.sum().item() == pytest.approx(1)
    mean = chance @ gradients
    return mean, chance @ (gradients - mean).square().sum(-1)


@pytest.mark.parametrize("start", STARTS)
def test_the_exact_decision_is_unbiased_with_the_lowest_variance(start) -> None:
    theta = STARTS[start]
    true = true_gradient(theta)
    exact, exact_var = estimate(theta, "exact")
    sampled, sampled_var = estimate(theta, "on_policy")
    torch.testing.assert_close(exact, true, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(sampled, true, atol=1e-8, rtol=1e-6)
    given = true_gradient(theta, only_two=True)
    corrected, corrected_var = estimate(theta, "balanced", balanced_correction=True)
    torch.testing.assert_close(corrected, given, atol=1e-8, rtol=1e-6)
    balanced, balanced_var = estimate(theta, "balanced")
    assert (balanced - given).norm() > 0.2 * given.norm(), "the quota is not the policy's own"
    assert exact_var < corrected_var < balanced_var and exact_var < sampled_var / 2
    variances = {"exact": exact_var, "corrected": corrected_var}
    variances |= {"balanced": balanced_var, "on_policy": sampled_var}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in variances.items())
    print(f"\nvariance of one group's gradient, start '{start}': {shown}")  # pytest -s


def test_the_exact_mode_is_exact_by_default() -> None:
    assert Objective(decision="exact").averaging == "luspo"
    assert Objective(decision="balanced").averaging == "grpo"
    mean, _ = estimate(STARTS["even"], "exact", loss_type=None, baseline="mean")
    torch.testing.assert_close(mean, true_gradient(STARTS["even"]), atol=1e-8, rtol=1e-6)


def test_the_correction_is_right_by_default_and_at_later_steps_of_one_rollout() -> None:
    assert objective_of(balanced_correction=True).averaging == "luspo"
    theta, options = STARTS["even"], {"balanced_correction": True, "loss_type": None}
    true = true_gradient(theta, only_two=True)
    mean, _ = estimate(theta, "balanced", **options)
    torch.testing.assert_close(mean, true, atol=1e-8, rtol=1e-6)

    sampler = theta.clone()
    sampler[:2] += torch.tensor([0.8, -0.7])  # the decision has moved since, the boxes have not
    wide = {"epsilon_low": 1.0, "epsilon_high": 100.0}
    mean, _ = estimate(theta, "balanced", sampler, **options, **wide)
    torch.testing.assert_close(mean, true, atol=1e-8, rtol=1e-6)


def test_the_floor_lifts_the_box_part_only() -> None:
    theta = STARTS["region rare"]
    p_region = tables(theta[None])[0][0, REGION].exp()
    true = true_gradient(theta)
    mean, _ = estimate(theta, "exact", region_floor=0.5)
    torch.testing.assert_close(mean[:3], true[:3], atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(mean[3:], true[3:] * (0.5 / p_region), atol=1e-8, rtol=1e-6)
    assert estimate(theta, "exact", region_floor=0.01)[0].allclose(true, atol=1e-8)


def test_a_tied_group_still_teaches_the_decision() -> None:
    """All boxes alike, but better than FULL: no other estimator of one decision sees that."""
    log_p = torch.tensor([[0.9], [0.1]], dtype=torch.float64).log().requires_grad_()
    once = torch.ones(1, dtype=torch.float64)
    rewards = DecisionRewards(0.2 * once, 0.7 * once, -once)
    expected_reward(log_p[0], log_p[1], rewards).backward()
    assert log_p.grad[:, 0].tolist() == pytest.approx([0.9 * 1.2, 0.1 * 1.7])


def test_a_logistic_decision_by_hand() -> None:
    """FULL earns 0.2 with p = 0.9, REGION 0.7 with p = 0.1: the mistake costs 0.5."""
    log_p = torch.tensor([[0.9], [0.1]], dtype=torch.float64).log().requires_grad_()
    once = torch.ones(1, dtype=torch.float64)
    rewards = DecisionRewards(0.2 * once, 0.7 * once, -once)
    value = logistic_decision(log_p[0], log_p[1], rewards)
    assert value.item() == pytest.approx(0.5 * math.log(0.1) + 1.7)
    value.backward()
    # d/dz of 0.5 log sigmoid(z) is 0.5 * 0.9; what is readable adds 1.7 of either's probability.
    assert log_p.grad[:, 0].tolist() == pytest.approx([-0.45 + 0.9 * 1.7, 0.45 + 0.1 * 1.7])


@given(
    gaps=st.lists(st.integers(-8, 8), min_size=1, max_size=6).filter(lambda gaps: sum(gaps) != 0)
)
def test_a_logistic_decision_prefers_what_earns_more_on_average(gaps) -> None:
    """Queries that look alike share one z; the slope at 0 tells the side of the best one."""
    region = torch.tensor(gaps, dtype=torch.float64) / 8
    gain, loss = region.clamp(min=0).sum(), (-region).clamp(min=0).sum()
    none = torch.zeros_like(region)

    def slope(odds: torch.Tensor) -> float:
        z = odds.clone().requires_grad_()
        full, of_region = (none - z).sigmoid().log(), (none + z).sigmoid().log()
        rewards = DecisionRewards(none, region, none - 1)
        logistic_decision(full, of_region, rewards).sum().backward()
        return z.grad.item()

    assert math.copysign(1, slope(none[0])) == math.copysign(1, sum(gaps))
    if gain and loss:  # else the best z is at infinity
        assert slope((gain / loss).log()) == pytest.approx(0, abs=1e-9)


def test_a_logistic_decision_learns_where_the_policy_is_sure_and_wrong() -> None:
    """Of two that earn alike it teaches only to be readable, as the expected reward does."""
    parts = {}
    for loss in (expected_reward, logistic_decision):
        for region in (0.3, 0.8):
            logits = torch.tensor([[6.0, -2.0, 0.5]], dtype=torch.float64, requires_grad=True)
            full, of_region, _ = logits.log_softmax(1).unbind(1)
            rewards = torch.tensor([[0.3], [region], [-1.0]], dtype=torch.float64)
            loss(full, of_region, DecisionRewards(*rewards)).sum().backward()
            parts[loss, region] = logits.grad[0]
    torch.testing.assert_close(parts[expected_reward, 0.3], parts[logistic_decision, 0.3])
    assert parts[expected_reward, 0.8][REGION] < 0.001
    assert parts[logistic_decision, 0.8][REGION] > 0.4


def test_a_logistic_decision_leaves_boxes_alone() -> None:
    plain, _ = estimate(STARTS["even"], "exact")
    logistic, _ = estimate(STARTS["even"], "exact", decision_loss="logistic")
    torch.testing.assert_close(logistic[3:], plain[3:])
    assert not logistic[:3].allclose(plain[:3])


def test_the_entropy_bonus_pulls_to_even_odds() -> None:
    even = torch.tensor([0.3]).log()
    assert decision_entropy(even, even).item() == pytest.approx(math.log(2))
    p = torch.tensor([0.9, 0.4], dtype=torch.float64)
    ours = decision_entropy((0.5 * p).log(), (0.5 * (1 - p)).log())  # half is neither
    assert ours.allclose(-(p * p.log() + (1 - p) * (1 - p).log()))
    plain, _ = estimate(STARTS["even"], "exact")
    pulled, _ = estimate(STARTS["even"], "exact", decision_entropy=0.5)
    gap = (pulled - plain)[:3]
    assert gap[FULL] < 0 < gap[REGION] and gap[OTHER].abs() < 1e-12
    assert (pulled - plain)[3:].abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("odds", [-200.0, -30.0, 30.0, 200.0])
@pytest.mark.parametrize("decision_loss", ["expected", "logistic"])
def test_a_certain_decision_has_finite_gradients(decision_loss, odds, dtype) -> None:
    """p(FULL) at 0 and at 1, as logits of that precision give it; `logistic` mends a mistake."""
    logits = torch.tensor([[odds, 0.0, -300.0]], dtype=dtype, requires_grad=True)
    logp = logits.float().log_softmax(-1)
    now = Scored(torch.zeros(1, 2, 1) + 0 * logp.sum(), logp[:, 0], logp[:, 1])
    one = torch.ones(1, 2, 1, dtype=torch.bool)
    group = Group(
        one, ~one, ~one, one[..., 0], one[..., 0].long(), torch.tensor([[0.3, 0.5]]),
        torch.tensor([0.2]), torch.tensor([-1.0]),
    )  # fmt: skip
    reference = Scored(*(tensor.detach() for tensor in now))
    settings = objective_of(
        decision="exact", decision_loss=decision_loss, decision_entropy=0.1, kl_weight=0.1
    )
    loss, logged = loss_of(settings, group, now, reference=reference)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert logged["reward"].item() == pytest.approx(0.2 if odds > 0 else 0.4)
    assert logged["kl"].abs() < 1e-6
    cost = 0.2 if decision_loss == "logistic" and odds > 0 else 0.0  # REGION earns 0.2 more
    flat = pytest.approx([cost, -cost, 0.0], abs=1e-6, rel=1e-2)  # bfloat16 has 3 digits
    assert logits.grad[0].tolist() == flat, "a certain decision is flat"
    assert region_weight(now.log_p_region, 0.25).item() == pytest.approx(0.25 if odds > 0 else 1.0)


def test_the_kl_of_exact_groups_follows_the_chain_rule() -> None:
    """Decision, and boxes as often as there are boxes; its gradient too, over every group.

    As in every GRPO, a token's KL leaves out how it steers the KL of later ones: the first token of
    a box is not compared.
    """
    theta, anchor = STARTS["even"], STARTS["even"] + torch.linspace(-0.5, 0.5, 15).double()

    def kl(weights: torch.Tensor) -> torch.Tensor:
        now, old = tables(weights[None]), tables(anchor[None])
        decision, first, second = (a.exp() * (a - b) for a, b in zip(now, old, strict=True))
        box = first.sum() + (now[1].exp()[..., None] * second).sum()
        return decision.sum() + now[0][0, REGION].exp() * box

    whole = theta.clone().requires_grad_()
    kl(whole).backward()
    each = theta.expand(len(BOXES), -1).clone().requires_grad_()
    ids = torch.tensor(BOXES)
    row = torch.arange(len(BOXES))

    def scored(weights: torch.Tensor) -> Scored:
        decision, first, second = tables(weights)
        logp = torch.stack([decision[:, 1], first[row, ids[:, 1]], second[row, *ids[:, 1:].T]], -1)
        return Scored(logp[:, None].expand(-1, 2, -1), decision[:, 0], decision[:, 1])

    now, reference = scored(each), scored(anchor.expand(len(BOXES), -1))
    mask = torch.ones(len(BOXES), 2, 3, dtype=torch.bool)
    decides = torch.zeros_like(mask)
    decides[..., 0] = True
    flat = torch.zeros(len(BOXES), dtype=torch.float64)  # no reward: nothing but the KL
    group = Group(
        mask, decides, decides, mask[..., 0], mask[..., 0].long(), mask[..., 0] * 0.0, flat, flat
    )
    settings = Objective(decision="exact", kl_weight=1.0, kl="k3_ratio")
    loss, logged = loss_of(settings, group, now, reference=reference)
    loss.backward()
    chance = now.logp.detach()[:, 0, 1:].sum(-1).exp()
    mean = chance @ each.grad * len(BOXES)
    assert mean[:3].allclose(whole.grad[:3]) and mean[6:].allclose(whole.grad[6:])
    assert logged["kl"] > 0


def test_corrected_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 3.0, 0.0]])
    region = torch.tensor([[True, True, False]])
    decides = torch.tensor([[[True, False]] * 3])
    even = torch.tensor([0.5]).log()
    found = corrected_advantages(rewards, region, decides, even, even)
    value = (0.75 * 1 + 0.75 * 3 + 1.5 * 0) / 3
    assert found[0, :, 0].tolist() == pytest.approx(
        [0.75 * (1 - value), 0.75 * (3 - value), -1.5 * value]
    )
    assert found[0, :2, 1].tolist() == pytest.approx([0.75 * (1 - 3), 0.75 * (3 - 1)])
    alone = corrected_advantages(rewards[:, 1:], region[:, 1:], decides[:, 1:], even, even)
    assert alone[0, 0, 1].item() == pytest.approx(3 - 0)  # one box: compared with FULL
    with pytest.raises(ValueError, match="both decisions"):
        corrected_advantages(rewards, region | True, decides, even, even)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decision": "forced"}, "'forced'"),
        ({"decision": "exact", "balanced_correction": True}, "decision=balanced"),
        ({"decision": "exact", "stratified": 0.5}, "stratified"),
        ({"decision": "exact", "decision_loss": "hinge"}, "decision_loss is 'hinge'"),
        ({"balanced_correction": True, "stratified": 0.5}, "exclude"),
        ({"stratified": 0.5, "baseline": "leave_one_out"}, "set model.advantage.baseline to mean"),
        ({"stratified": 1.5}, "stratified is 1.5"),
        ({"scale_rewards": "row"}, "'row'"),
        ({"epsilon_low": 2.0}, "epsilon_low must be between 0 and 1"),
        ({"region_floor": 1.5}, "region_floor"),
        ({"decision_entropy": -1.0}, "decision_entropy"),
        ({"kl": "k2"}, "'k2'"),
        ({"kl_weight": math.nan}, "kl_weight"),
    ],
)
def test_senseless_objectives_are_refused(options, words) -> None:
    with pytest.raises(UserError, match=words):
        objective_of(**options)
