"""Losses: by hand, their gradients, and tokens that must not count."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regionr1.algorithm.losses import aggregate, kl_k3, policy_loss
from regionr1.errors import UserError

# One query, two rollouts of 1 and 3 tokens.
MASK = torch.tensor([[[True, False, False], [True, True, True]]])
TOKENS = torch.tensor([[[2.0, 9.0, 9.0], [1.0, 2.0, 6.0]]])


def test_how_each_type_averages():
    assert aggregate(TOKENS, MASK, "grpo") == (2 + 3) / 2
    assert aggregate(TOKENS, MASK, "dapo") == 11 / 4
    assert aggregate(TOKENS, MASK, "dr_grpo", 10) == pytest.approx(11 / 20)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_masked_tokens_may_hold_anything_and_get_no_gradient(loss_type):
    garbage = torch.tensor([[[0.0, math.nan, -math.inf], [0.0, 0.0, 0.0]]])
    logp = (TOKENS * -0.1 + garbage).requires_grad_()
    stats = policy_loss(logp, None, torch.tensor([[1.0, -1.0]]), MASK, loss_type, 0.2, 0.2, 4)
    kl = aggregate(kl_k3(logp, TOKENS * -0.2), MASK, loss_type, 4)
    assert stats.loss.isfinite() and stats.ratio == 1
    assert kl.isfinite()
    stats.loss.backward()
    assert logp.grad[MASK].isfinite().all() and (logp.grad[MASK] != 0).all()
    assert (logp.grad[~MASK] == 0).all()


def test_completions_without_tokens_count_nothing():
    empty = torch.zeros_like(MASK)
    for loss_type in ("grpo", "dapo", "dr_grpo"):
        assert aggregate(TOKENS, empty, loss_type, 4) == 0


def test_on_policy_the_gradient_is_that_of_reinforce():
    logp = (TOKENS * -0.1).requires_grad_()
    advantages = torch.tensor([[2.0, -1.0]])
    policy_loss(logp, None, advantages, MASK).loss.backward()
    by_hand = -advantages[..., None] * MASK / MASK.sum(-1, keepdim=True) / 2
    assert logp.grad.allclose(by_hand)


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
        logp, torch.zeros(1, 1, 1), torch.full((1, 1), advantage), one, "grpo", 0.2, 0.28
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


def test_k3_estimates_the_kl():
    policy = torch.tensor([0.5, 0.3, 0.2])
    reference = torch.tensor([0.2, 0.3, 0.5])
    exact = (policy * (policy / reference).log()).sum()
    assert (policy * kl_k3(policy.log(), reference.log())).sum().item() == pytest.approx(
        exact.item()
    )


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
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        policy_loss(TOKENS, None, torch.ones(1, 2), MASK, **options)
