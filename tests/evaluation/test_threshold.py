"""A threshold on P(REGION), fitted on one split: by hand, and against trying all of them."""

import math

import numpy as np
import pytest
from decided_queries import FOUR, query
from hypothesis import given, settings
from hypothesis import strategies as st

from regionr1.evaluation.table import Outcome
from regionr1.evaluation.threshold import fit_threshold, threshold_outcomes


def best_by_trying(outcomes: list[Outcome]) -> tuple[int, float]:
    rows = [outcomes[i : i + 3] for i in range(0, len(outcomes), 3)]
    found = []
    for threshold in np.linspace(-0.001, 1.001, 1003):
        ranks = [(crop if 1 - crop.p_full > threshold else full).rank for full, crop, _ in rows]
        found.append((sum(rank == 1 for rank in ranks), sum(1 / rank for rank in ranks)))
    return max(found)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 99).map(lambda n: n / 100), st.integers(1, 4), st.integers(1, 4)),
        min_size=1,
        max_size=25,
    )
)
def test_the_fitted_threshold_is_as_good_as_any(points) -> None:
    outcomes = [
        o for i, (p, full, crop) in enumerate(points) for o in query(f"q{i}", p, full, crop, True)
    ]
    threshold = fit_threshold(outcomes)
    assert threshold is not None and threshold.n == len(points)
    ranks = [o.rank for o in threshold_outcomes(outcomes, threshold.value)]
    reached = (sum(rank == 1 for rank in ranks), sum(1 / rank for rank in ranks))
    hits, reciprocals = best_by_trying(outcomes)
    assert reached[0] == hits and reached[1] == pytest.approx(reciprocals)


def test_threshold_by_hand() -> None:
    threshold = fit_threshold(FOUR)
    assert threshold is not None and threshold.n == 5  # q6 does not count
    # Cropping q1 alone hits all but q4, cropping all but q3 hits all but q2: 4 hits each, but q4
    # comes third by its full image and q2 fourth by its crop.
    assert threshold.value == pytest.approx((0.8 + 0.9) / 2)
    rows = {o.key: o for o in threshold_outcomes(FOUR, threshold.value)}
    assert {key: o.decision for key, o in rows.items()} == {
        **dict.fromkeys(("q2", "q3", "q4", "q5", "q6"), "FULL"), "q1": "REGION",
    }  # fmt: skip
    assert {o.method for o in rows.values()} == {"policy_threshold"}
    assert rows["q3"].p_full == pytest.approx(0.7)


def test_threshold_at_the_ends_and_without_queries() -> None:
    always = fit_threshold([*query("q1", 0.2, 2, 1, False), *query("q2", 0.8, 2, 1, True)])
    never = fit_threshold([*query("q1", 0.2, 1, 2, False), *query("q2", 0.8, 1, 2, True)])
    assert always == (0.0, 2) and never == (1.0, 2)
    alike = fit_threshold([*query("q1", 0.4, 1, 1, False), *query("q2", 0.8, 1, 1, True)])
    assert alike == (pytest.approx(0.6), 2)  # of all, the one nearest to 1/2
    assert fit_threshold(query("q1", 0.5, math.inf, math.inf, True)) is None
    assert fit_threshold([]) is None
