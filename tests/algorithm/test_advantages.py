"""Advantages: by hand, and exactly nothing for groups that tie."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regionr1.algorithm.advantages import (
    dead_group_fraction,
    group_advantages,
    stratified_advantages,
)
from regionr1.errors import UserError

REWARDS = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]])


def test_by_hand():
    centred = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, -2.0, 4.0]])
    assert group_advantages(REWARDS).equal(centred)
    assert group_advantages(REWARDS, baseline="leave_one_out").allclose(centred * 1.5)
    std = torch.tensor([[1.0], [math.sqrt(12)]])
    assert group_advantages(REWARDS, scale="group").allclose(centred / (std + 1e-4))
    assert group_advantages(REWARDS, scale="batch").allclose(centred / (math.sqrt(5.2) + 1e-4))


def test_leave_one_out_is_the_mean_of_the_others():
    ours = group_advantages(REWARDS, baseline="leave_one_out")
    assert ours[1, 2] == 6 - 0
    assert ours[0, 0] == 1 - 2.5


@given(
    st.floats(-1e3, 1e3, width=32),
    st.integers(2, 16),
    st.sampled_from(["none", "group", "batch"]),
    st.sampled_from(["mean", "leave_one_out"]),
)
def test_a_tied_group_has_exactly_no_advantage(value, group_size, scale, baseline):
    rewards = torch.stack([torch.full((group_size,), value), torch.arange(float(group_size))])
    advantages = group_advantages(rewards, scale, baseline)
    assert (advantages[0] == 0).all()
    assert (advantages[1] != 0).any()
    assert (group_advantages(rewards[:1], scale, baseline) == 0).all()


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=16))
def test_advantages_sum_to_nothing(rewards):
    assert group_advantages(torch.tensor([rewards])).sum().item() == pytest.approx(0, abs=1e-4)


def test_dead_groups_are_counted():
    assert dead_group_fraction(torch.tensor([[0.1] * 3, [0.1, 0.1, 0.2]])) == 0.5


@pytest.mark.parametrize("function", [group_advantages, dead_group_fraction])
def test_a_group_of_one_is_refused(function):
    with pytest.raises(UserError, match="group_size"):
        function(torch.zeros(3, 1))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_reward_is_refused_and_named(value):
    with pytest.raises(UserError, match="query 1, rollout 0"):
        group_advantages(torch.tensor([[1.0, 2.0], [value, 1.0]]))


def test_unknown_options_are_refused():
    with pytest.raises(UserError, match="'std'"):
        group_advantages(REWARDS, scale="std")
    with pytest.raises(UserError, match="'median'"):
        group_advantages(REWARDS, baseline="median")


def test_stratified_by_hand():
    decision = torch.tensor([[1, 1, 0], [0, 1, 1]])
    inside = torch.tensor([[-0.5, 0.5, 0.0], [0.0, -3.0, 3.0]])
    assert stratified_advantages(REWARDS, decision, "none", 1.0).equal(inside)
    half = (inside + group_advantages(REWARDS)) / 2
    assert stratified_advantages(REWARDS, decision, "none", 0.5).equal(half)
    std = torch.tensor([[math.sqrt(0.5)], [math.sqrt(18)]])
    scaled = stratified_advantages(REWARDS, decision, "group", 1.0)
    assert scaled.allclose(inside / (std + 1e-4))
    with pytest.raises(UserError, match="stratified"):
        stratified_advantages(REWARDS, decision, "none", 1.5)


def test_a_tied_stratum_has_exactly_no_advantage():
    rewards = torch.tensor([[0.1, 0.1, 0.1, 7.0]])
    decision = torch.tensor([[0, 0, 0, 1]])
    assert (stratified_advantages(rewards, decision, "group", 1.0) == 0).all()
