"""The paper's reward from the text of an answer to what it earns, each worked out by hand."""

import math

import pytest
from evqa_files import ColourScorer
from written_policy import FULL, GREEN, NONSENSE, RED, SQUARE_PX, colour_batch, module, written

from regionr1.algorithm.rewards import RewardWeights
from regionr1.training.reward import earn

WEIGHTS = RewardWeights(variant="paper", malformed=0.25, invalid=0.75)


@pytest.fixture
def earned(tiny_policy):
    """What answers earn on a query after a colour; the image is seen at 64 x 64."""

    def rewards(gold: str, *answers: str) -> list[float]:
        policy, batch = written(tiny_policy), colour_batch([gold])
        rollouts = policy.read(batch.images, batch.questions, [answers])
        own = module(policy)
        found = earn(batch, rollouts, own.reranker, own.crop_prior, WEIGHTS, 0, own.policy.stage)
        return found.rewards[0].tolist()

    return rewards


def test_full_earns_1_where_the_full_image_is_right_and_nothing_elsewhere(earned) -> None:
    assert earned("green", FULL) == [1.0]
    assert earned("red", FULL) == [0.0]
    assert earned("purple", FULL) == [0.0]  # the pool holds no positive


def test_a_crop_that_lifts_the_positive_from_second_to_first(earned) -> None:
    scorer, batch = ColourScorer(), colour_batch(["red"])
    view = scorer.embed_images([batch.images[0].crop(SQUARE_PX)])
    crop, full = (x @ batch.candidates[0, :3].T for x in (view[0], batch.full_embedding[0]))
    margins = [float(scores[0] - scores[1:].max()) for scores in (crop, full)]
    by_hand = (
        0.2 * (1 - 1 / 2)
        + 0.2 * (1 - 1 / math.log2(3))
        + 0.2 * math.log((2 + 1) / (1 + 1))
        + 0.4 * (margins[0] - margins[1])
    )
    assert earned("red", RED) == pytest.approx([by_hand], rel=1e-5)
    assert earned("purple", RED) == [0.0]


def test_boxes_without_area_are_malformed_and_specks_are_not(earned) -> None:
    outside = '{"bbox_2d": [70, 2, 90, 9]}'
    assert earned("red", NONSENSE, outside, "pardon") == [-0.25, -0.25, -0.75]
    beyond, speck = '{"bbox_2d": [32, 32, 90, 99]}', '{"bbox_2d": [0, 0, 0.001, 0.001]}'
    assert earned("red", beyond) == earned("red", GREEN)  # what of it lies inside
    # a pixel of red, as red as all of it
    assert earned("red", speck) == pytest.approx(earned("red", RED))
