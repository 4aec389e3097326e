"""Seeds put together: by hand, against a simulation, and the correction against its definition."""

import math

import numpy as np
import pytest

from regionr1.evaluation.several import Estimate, holm, seed_gain, seed_rows, setting_difference
from regionr1.evaluation.table import Outcome, metrics_table


def run_of(hits, method: str = "policy", per_entity: int = 2) -> list[Outcome]:
    """One test; two queries an entity."""
    return [
        Outcome(
            *(f"q{i}", f"e{i // per_entity}", method, ["a", "b"] if hit else ["b", "a"], ["a"]),
            *(True, 1.0 if hit else 2.0, 1.0, "FULL"),
        )
        for i, hit in enumerate(hits)
    ]


def test_seeds_without_spread_leave_the_interval_of_the_entities() -> None:
    hits = [i % 3 == 0 for i in range(60)]
    (alone,) = metrics_table(run_of(hits))
    (row,) = seed_rows([run_of(hits)] * 4)
    assert (row.n, row.n_skipped, row.n_pool_positive) == (60, 0, 60)
    ours, one = row.metrics["recall_at_1"], alone.metrics["recall_at_1"]
    assert ours.value == one.value == pytest.approx(1 / 3)
    assert ours.high - ours.low == pytest.approx(one.high - one.low, rel=0.1)


def test_seeds_that_differ_widen_the_interval_by_student() -> None:
    # Every query of a seed alike: entities say nothing, so this is the plain t-interval.
    runs = [run_of([i < n] * 8) for n in (3, 2) for i in range(4)]
    (row,) = seed_rows(runs)
    half = 2.3646 * np.std([1] * 5 + [0] * 3, ddof=1) / math.sqrt(8)  # 7 degrees of freedom
    assert row.metrics["recall_at_1"] == pytest.approx((0.625, 0.625 - half, 1.0), abs=1e-3)
    assert 0.625 + half > 1, "a share cannot be more than 1"


def test_only_shared_queries_and_methods_count() -> None:
    first, second = run_of([True] * 4), run_of([True] * 3)
    extra = run_of([False] * 4, method="reference")
    (row,) = seed_rows([[*first, *extra], second])
    assert (row.method, row.n, row.n_skipped) == ("policy", 3, 1)


def test_gains_are_paired_within_a_run_and_settings_are_not() -> None:
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(3):  # seeds differ wildly, the gain over `full` hardly
        base = rng.random(400) < rng.random()
        runs.append([*run_of(base | (np.arange(400) % 10 == 0)), *run_of(base, "full")])
    within = seed_gain(runs, "policy", "full")["recall_at_1"]
    assert within.value > 0 and within.p_value() < 0.2
    across = setting_difference(
        [[o for o in run if o.method == "policy"] for run in runs],
        [[o for o in run_of([False] * 400)] for run in runs],
        "policy",
    )["recall_at_1"]
    assert across.error > 3 * within.error, "their seeds' spread counts in full"
    assert math.isinf(setting_difference(runs[:1], runs[:1], "policy")["mrr"].freedom)


def test_an_interval_over_seeds_and_entities_covers_the_truth() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        easy = rng.normal(0, 0.2, 40)  # of an entity
        runs = [
            run_of(rng.random(160) < np.repeat(0.5 + easy, 4) + rng.normal(0, 0.1), per_entity=4)
            for _ in range(3)
        ]
        (row,) = seed_rows(runs, resamples=200)
        low, high = row.metrics["recall_at_1"][1:]
        covered += low <= 0.5 <= high
    assert 53 <= covered <= 60, "95% of 60 are 57"


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_an_estimate_without_error() -> None:
    assert Estimate(0.0, 0.0, math.inf).p_value() == 1 and Estimate(0.1, 0.0, 3).p_value() == 0
    assert Estimate(None, 0.0, math.inf).interval() == (None, None, None)
    assert Estimate(1.96, 1.0, math.inf).p_value() == pytest.approx(0.05, abs=1e-4)
