"""The vote of a query's views, by hand."""

import math

import pytest
import torch

from regionr1.algorithm.vote import by_confidence, entity_numbers, vote

IDS = [["a", "b", "a", "c"]]
NUMBERS = entity_numbers(IDS, 5)  # with one of padding


def elect(full: list[float], crops: list[list[float]], made: list[bool] | None = None):
    """The vote of one query at temperature 0.1, the crops all made if not said otherwise."""
    views = torch.tensor([crops]).reshape(1, len(crops), 5)
    is_view = torch.tensor([made or [True] * len(crops)])
    return vote(torch.tensor([full]), views, is_view, NUMBERS, 0.1)


def test_entities_are_numbered_in_order_and_padding_is_none() -> None:
    assert NUMBERS.tolist() == [[0, 1, 0, 2, -1]]


def test_an_entity_counts_as_its_best_candidate_and_all_of_them_become_positives() -> None:
    # Two middling pictures of a do not add up; padding, whatever it holds, elects nobody.
    found = elect([0.3, 0.4, 0.39, 0.1, 9.0], [[0.3, 0.4, 0.39, 0.1, 9.0]])
    assert found.labels.tolist() == [[False, True, False, False, False]]
    found = elect([0.5, 0.4, 0.1, 0.1, 0.0], [[0.5, 0.4, 0.1, 0.1, 0.0]])
    assert found.labels.tolist() == [[True, False, True, False, False]]
    best = torch.tensor([0.5, 0.4, 0.1])
    assert found.confidence.item() == pytest.approx((best / 0.1).softmax(0)[0].item(), rel=1e-5)


def test_the_full_image_counts_as_much_as_all_crops_together() -> None:
    weak, strong = [0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.3, 0.0, 0.0, 0.0]
    full = [0.3 - 0.1 * math.log(2) + 0.01, 0.0, 0.0, 0.0, 0.0]
    # Of two crops one is sure of b, as sure as the full image is of a, less the weight of two.
    assert elect(full, [strong, weak]).labels[0, 0]
    full[0] -= 0.02
    assert elect(full, [strong, weak]).labels[0, 1]


def test_what_was_not_cropped_does_not_vote_nor_count() -> None:
    full, crop = [0.2, 0.1, 0.0, 0.0, 0.0], [0.0, 0.2, 0.0, 0.0, 0.0]
    noise = [math.nan] * 3 + [9.0, 9.0]
    alone = elect(full, [crop])
    beside = elect(full, [noise, crop, noise], [False, True, False])
    assert torch.equal(alone.labels, beside.labels)
    assert alone.confidence.item() == pytest.approx(beside.confidence.item(), rel=1e-5)
    nobody = elect(full, [noise], [False])
    assert nobody.labels[0, 0] and nobody.confidence.isfinite().all()


def test_an_unsure_query_earns_nothing_at_all() -> None:
    parts = {"mrr": torch.ones(2, 3), "full": torch.ones(2, 3), "penalty": -torch.ones(2, 3)}
    counted = by_confidence(parts, torch.tensor([0.5, 0.29]), 0.3)
    assert counted["mrr"].tolist() == counted["full"].tolist() == [[0.5] * 3, [0.0] * 3]
    assert counted["penalty"].tolist() == [[-1.0] * 3, [0.0] * 3], "a bad box is bad, however sure"
