"""The permutation test: exact where all exchanges can be counted, and right under no difference."""

from itertools import product

import numpy as np
import pytest

from regionr1.evaluation.permutation import permutation_p_values
from regionr1.evaluation.table import Outcome


def outcomes(method: str, hits: list[bool], per_entity: int = 1) -> list[Outcome]:
    return [
        Outcome(
            *(f"q{i}", f"e{i // per_entity}", method),
            ranking=["right"] if hit else ["wrong", "right"],
            gold_ids=["right"],
            pool_has_positive=True,
            rank=1.0 if hit else 2.0,
            ndcg=1.0 if hit else 0.6,
            decision="FULL",
        )
        for i, hit in enumerate(hits)
    ]


def p_value(ours: list[bool], theirs: list[bool], per_entity: int = 1, **options) -> float:
    both = [*outcomes("ours", ours, per_entity), *outcomes("theirs", theirs, per_entity)]
    found = permutation_p_values(both, "ours", "theirs", **options)["recall_at_1"]
    assert found is not None
    return found


@pytest.mark.parametrize("per_entity", [1, 2])
def test_agrees_with_counting_every_exchange(per_entity) -> None:
    ours = [True, True, True, False, True, True, True, False]
    theirs = [False, False, True, True, False, True, False, False]
    gaps = (np.array(ours, float) - np.array(theirs, float)).reshape(-1, per_entity).sum(1)
    signs = np.array(list(product([1, -1], repeat=len(gaps))))
    exact = np.mean(np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-9)
    assert p_value(ours, theirs, per_entity, permutations=20000) == pytest.approx(exact, abs=0.01)


def test_the_same_is_1_and_a_clear_difference_small() -> None:
    hits = [i % 3 == 0 for i in range(60)]
    assert p_value(hits, hits) == 1.0
    assert p_value([True] * 60, hits, permutations=999) == 1 / 1000
    # all queries of one entity tell no more than one
    assert p_value([True] * 60, [False] * 60, per_entity=60) == pytest.approx(1, abs=1e-9)


def test_without_a_difference_p_is_uniform() -> None:
    rng = np.random.default_rng(0)
    found = [
        p_value(list(rng.random(40) < 0.5), list(rng.random(40) < 0.5), permutations=199, seed=i)
        for i in range(100)
    ]
    assert np.mean(np.array(found) <= 0.1) < 0.2
    assert 0.4 < np.mean(found) < 0.7


def test_undefined_is_none_and_nothing_shared_is_refused() -> None:
    both = [*outcomes("a", [True]), *outcomes("b", [False])]
    assert permutation_p_values(both, "a", "b", 9)["iou"] is None
    with pytest.raises(ValueError, match="share no query"):
        permutation_p_values(both, "a", "c")
