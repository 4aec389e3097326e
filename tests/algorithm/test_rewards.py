"""Rewards from rankings worked out by hand."""

import inspect
import math

import pytest
import torch

from regionr1.algorithm.answers import Decision, parse_answer
from regionr1.algorithm.boxes import CropPrior
from regionr1.algorithm.rewards import RewardWeights, reward_parts, total
from regionr1.errors import UserError

FULL, REGION, INVALID = Decision.FULL, Decision.REGION, Decision.INVALID
# Candidate 0 is the positive. The full image ranks it third, the crop first, the bad crop fourth.
THIRD = [0.5, 0.8, 0.6, 0.1]
FIRST = [0.9, 0.8, 0.6, 0.1]
FOURTH = [0.0, 0.8, 0.6, 0.1]
RELEASE = RewardWeights(variant="release")


def reward(decisions, views, full=THIRD, positives=(0,), penalty=0.0, **options):
    """One query, one rollout for each decision."""
    labels = torch.zeros(1, len(full), dtype=torch.bool)
    labels[0, list(positives)] = True
    return reward_parts(
        torch.tensor([decisions]),
        torch.tensor([views]),
        torch.tensor([full]),
        labels,
        torch.ones_like(labels),
        torch.full((1, len(decisions)), penalty),
        **options,
    )


def values(parts):
    return {name: part[0].tolist() for name, part in parts.items()}


def test_a_crop_that_lifts_the_positive_from_third_to_first():
    parts = reward([REGION], [FIRST])
    hand = {
        "mrr": 0.2 * (1 - 1 / 3),
        "ndcg": 0.2 * (1 - 1 / math.log2(4)),
        "rank": 0.2 * (math.log(4) - math.log(2)),
        "margin": 0.4 * ((0.9 - 0.8) - (0.5 - 0.8)),
        "full": 0.0,
        "penalty": 0.0,
        "encouragement": 0.0,
    }
    assert values(parts) == {name: pytest.approx([value]) for name, value in hand.items()}
    assert total(parts).item() == pytest.approx(sum(hand.values()))


def test_a_crop_that_drops_the_positive_to_fourth():
    parts = reward([REGION], [FOURTH])
    assert parts["mrr"].item() == pytest.approx(0.2 * (1 / 4 - 1 / 3))
    assert parts["ndcg"].item() == pytest.approx(0.2 * (1 / math.log2(5) - 1 / math.log2(4)))
    assert parts["rank"].item() == pytest.approx(0.2 * (math.log(4) - math.log(5)))
    assert parts["margin"].item() == pytest.approx(0.4 * ((0.0 - 0.8) - (0.5 - 0.8)))
    assert total(parts).item() < 0


def test_the_margin_moves_when_the_rank_does_not():
    parts = reward([REGION], [[0.55, 0.8, 0.6, 0.1]])
    assert parts["mrr"].item() == parts["ndcg"].item() == parts["rank"].item() == 0
    assert parts["margin"].item() == pytest.approx(0.4 * 0.05)


def test_several_positives_count_by_their_mean_or_their_best():
    view = [0.9, 0.8, 0.7, 0.1]
    mean = reward([REGION], [view], positives=(0, 2))["margin"].item()
    assert mean == pytest.approx(0.4 * ((0.8 - 0.8) - (0.55 - 0.8)))
    best = RewardWeights(positive="max")
    best_of = reward([REGION], [view], positives=(0, 2), weights=best)["margin"].item()
    assert best_of == pytest.approx(0.4 * ((0.9 - 0.8) - (0.6 - 0.8)))


@pytest.mark.parametrize("full, expected", [(THIRD, 0.0), (FIRST, 0.2)])
def test_full_is_rewarded_only_where_the_full_image_is_right(full, expected):
    parts = reward([FULL, REGION], [full, full], full=full)
    assert values(parts)["full"] == pytest.approx([expected, 0.0])
    assert total(parts)[0, 0].item() == pytest.approx(expected)


@pytest.mark.parametrize("full", [THIRD, FIRST])
def test_an_unparsable_answer_is_not_full(full):
    decision = parse_answer("I would rather not crop").decision
    rewards = total(reward([decision, FULL], [full, full], full=full))
    assert rewards[0, 0] == -1
    assert rewards[0, 1] >= 0


def test_scores_that_do_not_count_may_be_anything():
    nothing = [math.nan] * 4
    parts = reward([FULL, INVALID], [nothing, nothing], penalty=math.nan)
    assert total(parts).tolist() == [[0.0, -1.0]]


def test_eta_and_encouragement_touch_only_regions():
    parts = reward([FULL, REGION, INVALID], [THIRD] * 3, penalty=0.75, bonus=0.5)
    assert values(parts)["penalty"] == [0.0, -0.75, -1.0]
    assert values(parts)["encouragement"] == [0.0, 0.5, 0.0]


def test_a_query_without_a_positive_or_a_negative_has_no_delta():
    for positives in ((), (0, 1, 2, 3)):
        parts = reward([REGION], [FIRST], positives=positives)
        assert total(parts).item() == 0


def test_padding_counts_for_nothing():
    labels = torch.tensor([[True, False, False, False, True]])
    valid = torch.tensor([[True, True, True, True, False]])
    padded = reward_parts(
        torch.tensor([[REGION]]),
        torch.tensor([[[*FIRST, math.nan]]]),
        torch.tensor([[*THIRD, 7.0]]),
        labels,
        valid,
        torch.zeros(1, 1),
    )
    assert total(padded).equal(total(reward([REGION], [FIRST])))


def test_each_query_is_compared_with_its_own_full_image():
    labels = torch.tensor([[True, False, False, False]] * 2)
    parts = reward_parts(
        torch.full((2, 3), REGION),
        torch.tensor([[FIRST] * 3, [FIRST] * 3]),
        torch.tensor([THIRD, FIRST]),
        labels,
        torch.ones_like(labels),
        torch.zeros(2, 3),
    )
    assert (total(parts)[0] > 0.3).all()
    assert (total(parts)[1] == 0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_score_is_refused_never_a_number(value):
    with pytest.raises(UserError, match="query 0"):
        reward([REGION], [[0.1, value, 0.2, 0.3]])
    with pytest.raises(UserError, match="query 0"):
        reward([FULL], [THIRD], full=[0.1, value, 0.2, 0.3])


def test_mistakes_of_the_caller_are_refused(monkeypatch):
    monkeypatch.setitem(globals(), "reward_parts", inspect.unwrap(reward_parts))
    with pytest.raises(ValueError, match="decision"):
        reward([-1], [THIRD])
    with pytest.raises(ValueError, match="view_scores"):
        reward([REGION, FULL], [THIRD])
    with pytest.raises(ValueError, match="box_penalty"):
        reward([REGION], [THIRD], penalty=math.nan)


def test_the_releases_reward():
    parts = reward([REGION, REGION, FULL, INVALID], [FIRST, FOURTH, THIRD, THIRD], weights=RELEASE)
    deltas = total(reward([REGION], [FIRST])).item()
    assert total(parts)[0].tolist() == pytest.approx([5 * deltas, -0.25, 0.0, 0.0])


def test_the_release_takes_garbage_for_full_and_never_adds_the_encouragement():
    parts = reward([FULL, INVALID, REGION], [FIRST] * 3, full=FIRST, bonus=0.5, weights=RELEASE)
    assert total(parts).tolist() == [[1.0, 1.0, 0.0]]


def test_the_releases_box_without_area():
    penalty = CropPrior().penalty(torch.tensor([2.0, 2.0, 3.0, 3.0])).item()
    assert total(reward([REGION], [FIRST], penalty=penalty, weights=RELEASE)).item() == -1
    # written backwards, which reads as INVALID, and not as FULL
    backwards = reward([INVALID], [FIRST], full=FIRST, penalty=penalty, weights=RELEASE)
    assert total(backwards).item() == -1
    slim = total(reward([REGION], [FIRST], penalty=0.9, weights=RELEASE)).item()
    assert slim == pytest.approx(5 * total(reward([REGION], [FIRST])).item())


@pytest.mark.parametrize(
    "wrong",
    [
        {"mrr": -1.0},
        {"margin": math.nan},
        {"malformed": -1.0},
        {"variant": "ours"},
        {"positive": "first"},
        {"full_correct": 0.2, "variant": "paper"},
        {"positive": "mean", "variant": "paper"},
        {"full_correct": 0.2, "variant": "release"},
        {"positive": "max", "variant": "release"},
    ],
)
def test_senseless_weights_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        RewardWeights(**wrong)
