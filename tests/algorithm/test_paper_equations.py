"""The paper's equations 5 to 10, one test each, from rankings worked out by hand.

Region-R1, arXiv 2604.05268. Candidates 0 and 2 are positive in all of them. By hand:

    full image   scores 0.5 0.8 0.6 0.1   order 1 2 0 3   positives at ranks 2 and 3
    crop         scores 0.9 0.8 0.7 0.1   order 0 1 2 3   positives at ranks 1 and 3
"""

import math

import pytest
import torch

from regionr1.algorithm.advantages import group_advantages, stratified_advantages
from regionr1.algorithm.answers import NO_AREA, Decision, parse_answer
from regionr1.algorithm.boxes import CropPrior
from regionr1.algorithm.rewards import RewardWeights, reward_parts, total
from regionr1.evaluation.table import METRICS, Outcome, metrics_table

FULL, REGION, INVALID = Decision.FULL, Decision.REGION, Decision.INVALID
FULL_SCORES, CROP_SCORES = [0.5, 0.8, 0.6, 0.1], [0.9, 0.8, 0.7, 0.1]
PAPER = RewardWeights(variant="paper")
# dMRR, dNDCG, dRank = log((2 + 1) / (1 + 1)), dMargin with the highest positive
IDEAL = 1 + 1 / math.log2(3)
DELTAS = {
    "mrr": 1 - 1 / 2,
    "ndcg": ((1 + 1 / math.log2(4)) - (1 / math.log2(3) + 1 / math.log2(4))) / IDEAL,
    "rank": math.log(3 / 2),
    "margin": (0.9 - 0.8) - (0.6 - 0.8),
}


def reward(decision, view=CROP_SCORES, full=FULL_SCORES, penalty=0.0, weights=PAPER, **options):
    labels = torch.tensor([[True, False, True, False]])
    return reward_parts(
        torch.tensor([[decision]]),
        torch.tensor([[view]]),
        torch.tensor([full]),
        labels,
        torch.ones_like(labels),
        torch.tensor([[penalty]]),
        weights=weights,
        **options,
    )


def test_eq_5_a_region_earns_the_weighted_deltas() -> None:
    by_hand = (
        0.2 * DELTAS["mrr"] + 0.2 * DELTAS["ndcg"] + 0.2 * DELTAS["rank"] + 0.4 * DELTAS["margin"]
    )
    assert total(reward(REGION)).item() == pytest.approx(by_hand)
    first_only = RewardWeights(1.0, 0.0, 0.0, 0.0, variant="paper")
    assert total(reward(REGION, weights=first_only)).item() == pytest.approx(DELTAS["mrr"])


@pytest.mark.parametrize("answer", ["[9, 2, 5, 9]", "[5, 9, 8, 2]", "[5, 2, 5, 9]"])
def test_eq_5_eta_is_for_malformed_boxes_only(answer) -> None:
    action = parse_answer(f'{{"bbox_2d": {answer}}}')
    assert action.reason == NO_AREA  # read as INVALID, with a penalty of 1 beside it
    assert total(reward(INVALID, penalty=1.0)).item() == -PAPER.malformed
    mild = RewardWeights(variant="paper", malformed=0.25, invalid=0.75)
    assert total(reward(INVALID, penalty=1.0, weights=mild)).item() == -0.25
    assert total(reward(INVALID, penalty=0.0, weights=mild)).item() == -0.75  # is no box at all


def test_eq_5_has_no_limits_of_area_or_shape() -> None:
    prior = CropPrior(min_area=0.5, max_aspect=1.5)
    slim = prior.penalty(torch.tensor([0.0, 0.0, 0.9, 0.01])).item()
    assert 0.9 < slim < 1
    assert total(reward(REGION, penalty=slim)).equal(total(reward(REGION)))
    speck = CropPrior().penalty(torch.tensor([0.5, 0.5, 0.50001, 0.50001])).item()
    assert total(reward(REGION, penalty=speck)).equal(total(reward(REGION)))  # x2 > x1, y2 > y1
    outside = prior.penalty(torch.tensor([2.0, 2.0, 3.0, 3.0])).item()
    assert total(reward(REGION, penalty=outside)).item() == -1  # nothing of it is in the image


def test_eq_6_the_rank_counts_by_its_logarithm() -> None:
    parts = reward(REGION)
    assert parts["rank"].item() == pytest.approx(0.2 * math.log((2 + 1) / (1 + 1)))
    back = reward(REGION, view=FULL_SCORES, full=CROP_SCORES)
    assert back["rank"].item() == pytest.approx(0.2 * math.log((1 + 1) / (2 + 1)))


def test_eq_7_the_margin_is_of_the_highest_positive() -> None:
    assert reward(REGION)["margin"].item() == pytest.approx(0.4 * DELTAS["margin"])
    own = reward(REGION, weights=RewardWeights())["margin"].item()
    assert own == pytest.approx(0.4 * ((0.8 - 0.8) - (0.55 - 0.8)))  # the mean of both


@pytest.mark.parametrize(("full", "earned"), [(FULL_SCORES, 0.0), (CROP_SCORES, 1.0)])
def test_eq_8_a_right_full_earns_1(full, earned) -> None:
    assert total(reward(FULL, full=full)).item() == earned
    assert total(reward(REGION, view=full, full=full)).item() == 0  # not a matter of the view


def test_eq_8_is_worth_more_than_the_crop_by_hand() -> None:
    assert total(reward(REGION)).item() < 1
    assert total(reward(FULL, full=CROP_SCORES, weights=RewardWeights())).item() == (
        pytest.approx(0.2)  # ours
    )


def test_eq_9_advantages_are_divided_by_the_groups_deviation() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.5, 0.5]])
    std = math.sqrt((0.5**2 + 0.5**2) / 3)
    by_hand = torch.tensor([[0.5, -0.5, 0.0, 0.0]]) / (std + 1e-4)
    assert group_advantages(rewards, scale="group").allclose(by_hand)


def test_eq_9_conditional_on_d_compares_within_a_decision() -> None:
    rewards = torch.tensor([[0.9, 0.3, 1.0, 1.0]])
    decision = torch.tensor([[REGION, REGION, FULL, FULL]])
    std = math.sqrt(2 * 0.3**2)
    by_hand = torch.tensor([[0.3, -0.3, 0.0, 0.0]]) / (std + 1e-4)
    found = stratified_advantages(rewards, decision, "group", 1.0)
    assert found.allclose(by_hand)  # two equal FULL have nothing to tell
    assert stratified_advantages(rewards, decision, "group", 0.0).allclose(
        group_advantages(rewards, scale="group")
    )


def test_eq_10_recall_among_queries_whose_pool_holds_a_positive() -> None:
    def outcome(key: str, rank: int | None) -> Outcome:
        ranking = [f"other-{i}" for i in range(20)]
        if rank is not None:
            ranking[rank - 1] = "gold"
        return Outcome(key, "e", "policy", ranking, ["gold"], rank is not None,
                       rank or math.inf, 0.0, "FULL")  # fmt: skip

    ranks = [1, 5, 10, 11, None, None]
    (row,) = metrics_table(outcome(f"q{i}", rank) for i, rank in enumerate(ranks))
    assert row.n == 6 and row.n_pool_positive == 4
    found = {k: row.metrics[f"cond_recall_at_{k}"].value for k in (1, 5, 10)}
    assert found == {1: 1 / 4, 5: 2 / 4, 10: 3 / 4}
    assert METRICS["cond_recall_at_10"] == "CondR@10"
