"""Losses: by hand, their gradients, and tokens that must not count."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regionr1.algorithm.kl import decision_kl, kl_k3
from regionr1.algorithm.losses import LossOptions, LossShape, aggregate, policy_loss
from regionr1.errors import UserError

# One query, two rollouts of 1 and 3 tokens.
MASK = torch.tensor([[[True, False, False], [True, True, True]]])
ALL = ["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"]
TOKENS = torch.tensor([[[2.0, 9.0, 9.0], [1.0, 2.0, 6.0]]])


def wide(loss_type: str, **options) -> LossOptions:
    """A loss whose clip leaves ratios near 1 alone, also where it caps the ratio itself."""
    return LossOptions(loss_type, epsilon_high=1.2, **options)


def test_how_each_type_averages():
    assert aggregate(TOKENS, MASK, "grpo") == (2 + 3) / 2
    assert aggregate(TOKENS, MASK, "dapo") == 11 / 4
    assert aggregate(TOKENS, MASK, "dr_grpo", 10) == pytest.approx(11 / 20)
    assert aggregate(TOKENS, MASK, "luspo") == (2 + 9) / 2
    assert aggregate(TOKENS, MASK, "sapo") == (2 + 3) / 2
    for kind in ("bnpo", "cispo", "vespo"):
        assert aggregate(TOKENS, MASK, kind) == 11 / 4
    eight = torch.tensor(8)  # tokens of a batch, averaged over ranks
    assert aggregate(TOKENS, MASK, "dapo", tokens=eight) == 11 / 8
    assert aggregate(TOKENS, MASK, "bnpo", tokens=eight) == 11 / 4  # of this batch alone


@pytest.mark.parametrize("loss_type", ALL)
def test_masked_tokens_may_hold_anything_and_get_no_gradient(loss_type):
    garbage = torch.tensor([[[0.0, math.nan, -math.inf], [0.0, 0.0, 0.0]]])
    logp = (TOKENS * -0.1 + garbage).requires_grad_()
    stats = policy_loss(logp, None, torch.tensor([[1.0, -1.0]]), MASK, wide(loss_type), 4)
    kl = aggregate(kl_k3(logp, TOKENS * -0.2), MASK, loss_type, 4)
    assert stats.loss.isfinite() and stats.ratio == 1
    assert kl.isfinite()
    stats.loss.backward()
    assert logp.grad[MASK].isfinite().all() and (logp.grad[MASK] != 0).all()
    assert (logp.grad[~MASK] == 0).all()


def test_completions_without_tokens_count_nothing():
    empty = torch.zeros_like(MASK)
    for loss_type in ALL:
        assert aggregate(TOKENS, empty, loss_type, 4) == 0


def test_on_policy_the_gradient_is_that_of_reinforce():
    logp = (TOKENS * -0.1).requires_grad_()
    advantages = torch.tensor([[2.0, -1.0]])
    policy_loss(logp, None, advantages, MASK).loss.backward()
    by_hand = -advantages[..., None] * MASK / MASK.sum(-1, keepdim=True) / 2
    assert logp.grad.allclose(by_hand)


@pytest.mark.parametrize("loss_type", ALL)
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_on_policy_only_the_averaging_tells_the_types_apart(loss_type, level):
    logp = (TOKENS * -0.1).requires_grad_()
    advantages = torch.tensor([[2.0, -1.0]])
    options = wide(loss_type, importance_sampling_level=level)
    policy_loss(logp, None, advantages, MASK, options, 4).loss.backward()
    weights = torch.ones(TOKENS.shape, requires_grad=True)  # what aggregate gives each token
    aggregate(weights, MASK, loss_type, 4).backward()
    expected = -advantages[..., None] * weights.grad
    if level == "sequence" and loss_type not in ("cispo", "vespo"):
        assert logp.grad.sum(-1).allclose(expected.sum(-1))  # shared out over the completion
    else:
        assert logp.grad.allclose(expected)


def one(ratio: float, advantage: float, loss_type: str, **options):
    """Value and gradient of one token whose ratio is given."""
    logp = torch.full((1, 1, 1), math.log(ratio), requires_grad=True)
    mask = torch.ones(1, 1, 1, dtype=torch.bool)
    stats = policy_loss(
        logp,
        torch.zeros(1, 1, 1),
        torch.full((1, 1), advantage),
        mask,
        LossOptions(loss_type, **options),
    )
    stats.loss.backward()
    return stats, logp.grad.item()


def test_cispo_by_hand():
    stats, grad = one(8.0, 1.0, "cispo", epsilon_high=5.0)
    assert grad == pytest.approx(-5)  # capped, but never without a gradient
    assert stats.clip_high == 1
    assert one(0.5, -2.0, "cispo", epsilon_high=5.0)[1] == pytest.approx(0.5 * 2)


def test_sapo_by_hand():
    stats, grad = one(1.5, 1.0, "sapo")
    gate = 1 / (1 + math.exp(-0.5))
    assert stats.loss.item() == pytest.approx(-4 * gate)
    assert grad == pytest.approx(-4 * gate * (1 - gate) * 1.5)
    gate = 1 / (1 + math.exp(2.0 * 0.5))
    stats, _ = one(0.5, -1.0, "sapo", shape=LossShape(sapo_temperature_neg=2.0))
    assert stats.loss.item() == pytest.approx(4 / 2 * gate)


def test_vespo_by_hand():
    _, grad = one(1.5, 1.0, "vespo")
    assert grad == pytest.approx(-math.exp(3) * 1.5**2 * math.exp(-3 * 1.5), rel=1e-5)
    _, grad = one(0.5, -1.0, "vespo")
    assert grad == pytest.approx(math.exp(2) * 0.5**3 * math.exp(-2 * 0.5), rel=1e-5)
    # the weight is that of the whole completion
    logp = torch.full((1, 1, 2), math.log(1.5), requires_grad=True)
    mask = torch.ones(1, 1, 2, dtype=torch.bool)
    vespo = LossOptions("vespo")
    policy_loss(logp, torch.zeros(1, 1, 2), torch.ones(1, 1), mask, vespo).loss.backward()
    whole = math.exp(3) * 2.25**2 * math.exp(-3 * 2.25)
    assert logp.grad.tolist() == [[pytest.approx([-whole / 2] * 2, rel=1e-5)]]


def test_the_ratio_of_a_sequence_is_the_geometric_mean_of_its_tokens():
    logp = torch.tensor([[[math.log(4.0), 0.0, 9.0]]])
    mask = torch.tensor([[[True, True, False]]])
    old, up = torch.zeros(1, 1, 3), torch.ones(1, 1)
    each = policy_loss(logp, old, up, mask, LossOptions("grpo", epsilon_high=2.0))
    assert each.loss.item() == pytest.approx(-(3 + 1) / 2) and each.clip_high == 0.5
    gspo = LossOptions("grpo", epsilon_high=2.0, importance_sampling_level="sequence")
    whole = policy_loss(logp, old, up, mask, gspo)
    assert whole.loss.item() == pytest.approx(-2) and whole.clip_high == 0
    assert whole.ratio.item() == pytest.approx(2)


def test_delta_bounds_what_the_clip_leaves_open():
    assert one(9.0, -1.0, "grpo")[0].loss.item() == pytest.approx(9)
    stats, grad = one(9.0, -1.0, "grpo", delta=4.0)
    assert stats.loss.item() == pytest.approx(4) and grad == 0


def test_advantages_may_differ_by_token():
    logp = (TOKENS * -0.1).requires_grad_()
    advantages = torch.tensor([[[1.0, 7.0, 7.0], [2.0, 0.0, -3.0]]])
    policy_loss(logp, None, advantages, MASK, LossOptions("luspo")).loss.backward()
    assert logp.grad.allclose(torch.tensor([[[-0.5, 0.0, 0.0], [-1.0, 0.0, 1.5]]]))


@pytest.mark.parametrize(
    "ratio, advantage, value, low, high",
    [
        (1.5, 1.0, -1.28, 0, 1),  # held at the upper bound
        (1.5, -1.0, 1.5, 0, 0),  # a worse action made likelier: never clipped
        (0.5, -1.0, 0.8, 1, 0),  # held at the lower bound
        (0.5, 1.0, -0.5, 0, 0),
        (1.1, 1.0, -1.1, 0, 0),
    ],
)
def test_the_clip_by_hand(ratio, advantage, value, low, high):
    logp = torch.full((1, 1, 1), math.log(ratio), requires_grad=True)
    one = torch.ones(1, 1, 1, dtype=torch.bool)
    stats = policy_loss(
        logp,
        torch.zeros(1, 1, 1),
        torch.full((1, 1), advantage),
        one,
        LossOptions("grpo", epsilon_high=0.28),
    )
    assert stats.loss.item() == pytest.approx(value)
    assert (stats.clip_low, stats.clip_high) == (low, high)
    assert stats.ratio.item() == pytest.approx(ratio)
    stats.loss.backward()
    assert (logp.grad.item() == 0) == bool(low or high)


def test_the_stats_count_only_unmasked_tokens():
    logp = torch.tensor([[[math.log(2.0), 5.0, 5.0], [0.0, 0.0, 0.0]]])
    stats = policy_loss(logp, torch.zeros(1, 2, 3), torch.ones(1, 2), MASK)
    assert stats.clip_high == 0.25 and stats.clip_low == 0
    assert stats.ratio == pytest.approx((2 + 3) / 4)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_k3_is_never_negative_and_nothing_at_the_reference(logp, ref_logp):
    logp, ref_logp = torch.tensor(logp), torch.tensor(ref_logp)
    assert kl_k3(logp, ref_logp) >= 0
    assert kl_k3(logp, logp) == 0


def test_k3_of_a_forced_token_is_finite_and_still_pulls():
    logp = torch.tensor([-200.0, -9.9, -10.1], requires_grad=True)
    k3 = kl_k3(logp, torch.zeros(3))
    assert k3[1].item() == pytest.approx(math.expm1(9.9) - 9.9)
    assert k3[2].item() == pytest.approx(math.expm1(10) - 10.1 + 0.1 * math.exp(10))
    k3.sum().backward()
    assert k3[0].isfinite() and logp.grad[0].item() == pytest.approx(1 - math.exp(10))


def test_k3_estimates_the_kl():
    policy = torch.tensor([0.5, 0.3, 0.2])
    reference = torch.tensor([0.2, 0.3, 0.5])
    exact = (policy * (policy / reference).log()).sum()
    assert (policy * kl_k3(policy.log(), reference.log())).sum().item() == pytest.approx(
        exact.item()
    )


def test_the_ratio_turns_the_gradient_of_k3_into_that_of_the_kl():
    """Averaged over the policy's own samples, exactly, on three outcomes."""
    logits = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    logp = logits.log_softmax(-1)
    (logp.exp() * (logp - reference)).sum().backward(retain_graph=True)
    true, logits.grad = logits.grad, None
    found = {}
    for ratio in (True, False):
        k3 = kl_k3(logp, reference, logp.detach() if ratio else None)
        (logp.detach().exp() * k3).sum().backward(retain_graph=True)
        found[ratio], logits.grad = logits.grad, None
        assert k3.allclose(kl_k3(logp, reference))  # the same values on-policy
    assert found[True].allclose(true)
    assert not found[False].allclose(true, rtol=0.1)


@given(st.floats(-30, 30), st.floats(-3, 3), st.sampled_from([torch.float32, torch.float64]))
def test_with_the_ratio_the_gradient_is_that_of_the_plain_formula_at_any_gap(gap, moved, dtype):
    """No guard bends it: -ratio x gap, pulling towards the reference on either side."""
    ref_logp = torch.tensor([-0.5], dtype=torch.float64)
    logp = (ref_logp - gap).requires_grad_()
    old_logp = logp.detach() - moved
    plain = (logp - old_logp).exp() * ((ref_logp - logp).exp() - (ref_logp - logp) - 1)
    plain.backward()
    true = -math.exp(moved) * gap
    # What autograd loses of it when terms of that size cancel.
    lost = 1e-14 * math.exp(moved) * math.exp(abs(gap))
    assert logp.grad.item() == pytest.approx(true, rel=1e-9, abs=1e-9 + lost)

    ours = logp.detach().to(dtype).requires_grad_()
    k3 = kl_k3(ours, ref_logp.to(dtype), old_logp.to(dtype))
    k3.backward()
    near = {"rel": 1e-4, "abs": 1e-4} if dtype == torch.float32 else {"rel": 1e-9, "abs": 1e-9}
    assert ours.grad.item() == pytest.approx(true, **near)
    assert k3.item() == pytest.approx(plain.item(), **near)


def test_a_collapsed_decision_is_pulled_back_not_driven_away():
    """A quota chooses a token at log p = -11.5 in half of the answers: the KL term brings it back,
    by steps of a bounded size, as Adam's are."""
    logits = torch.tensor([11.5, 0.0], requires_grad=True)
    reference = torch.tensor([0.5, 0.5]).log()
    for _ in range(200):
        logp = logits.log_softmax(-1)
        kl = kl_k3(logp, reference, logp.detach()).mean()
        (gradient,) = torch.autograd.grad(kl, logits)
        with torch.no_grad():
            logits -= 0.05 * gradient.sign()
    assert logits.log_softmax(-1)[1] > -1


def test_the_kl_of_the_decision_is_exact():
    policy, reference = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.3, 0.5])
    reference = reference.double()
    kl = decision_kl(*policy[:2].log()[:, None], *reference[:2].log()[:, None])
    assert kl.item() == pytest.approx((policy * (policy / reference).log()).sum().item())
    surely = torch.tensor([1.0]).log().requires_grad_()  # nothing is left for the others
    never = torch.tensor([-200.0], requires_grad=True)
    kl = decision_kl(surely, never, torch.tensor([-0.7]), torch.tensor([-0.7]))
    kl.backward()
    assert kl.item() == pytest.approx(0.7, abs=1e-4)
    assert surely.grad.isfinite() and never.grad == 0


def test_the_reference_gets_no_gradient():
    logp, ref_logp = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    kl_k3(logp, ref_logp).sum().backward()
    assert ref_logp.grad is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss_type": "ppo"}, "'ppo'"),
        ({"loss_type": "dr_grpo"}, "max_completion_length"),
        ({"epsilon_low": 1.5}, "epsilon_low"),
        ({"epsilon_high": math.nan}, "epsilon_high"),
        ({"loss_type": "cispo"}, "caps the ratio"),
        ({"delta": 1.1}, "delta"),
        ({"importance_sampling_level": "word"}, "'word'"),
        ({}, "loss type None"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        policy_loss(TOKENS, None, torch.ones(1, 2), MASK, LossOptions(**options))


def test_senseless_shapes_are_refused():
    with pytest.raises(UserError, match="above 0"):
        LossShape(vespo_k_pos=0.0)
