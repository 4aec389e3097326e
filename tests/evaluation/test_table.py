"""The test table from hand-worked outcomes, and its intervals against a plain loop."""

import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionr1.evaluation.bootstrap import Interval, ratio_draws
from regionr1.evaluation.render import format_table, table_csv, table_json
from regionr1.evaluation.table import (
    METRICS,
    Outcome,
    grouped_table,
    metrics_table,
    paired_difference,
)


def outcome(key="q0", method="policy", ranking=("a", "b"), gold=("a",), **changes) -> Outcome:
    ranking = None if ranking is None else list(ranking)
    values = {
        "cluster": gold[0] if gold else "none",
        "pool_has_positive": True,
        "rank": 1.0,
        "ndcg": 1.0,
        "decision": "INVALID" if ranking is None else "FULL",
        **changes,
    }
    return Outcome(key=key, method=method, ranking=ranking, gold_ids=gold, **values)


def values(row) -> dict[str, float | None]:
    return {name: interval.value for name, interval in row.metrics.items()}


def test_hand_worked_row() -> None:
    (row,) = metrics_table(
        [
            # duplicates of b count once, so a is the second entity though the third candidate
            outcome(
                *("q0", "policy", ["b", "b", "a"]),
                **dict(rank=3.0, ndcg=0.5, decision="REGION", iou=0.6, p_full=0.2),
            ),
            outcome("q1", ranking=["a", "b"], rank=1.0, ndcg=1.0, p_full=0.7),
            outcome("q2", ranking=["x", "y"], rank=math.inf, ndcg=0.0, pool_has_positive=False),
            # what the module put in rank and ndcg must not rescue an unparsable answer
            outcome("q3", ranking=None, rank=1.0, ndcg=1.0),
        ]
    )
    assert (row.n, row.n_skipped, row.n_pool_positive) == (4, 0, 3)
    assert values(row) == pytest.approx(
        {
            "recall_at_1": 1 / 4,
            "recall_at_5": 2 / 4,
            "recall_at_10": 2 / 4,
            "recall_at_20": 2 / 4,
            "cond_recall_at_1": 1 / 3,
            "cond_recall_at_5": 2 / 3,
            "cond_recall_at_10": 2 / 3,
            "mrr": (1 / 3 + 1) / 4,
            "cond_mrr": (1 / 3 + 1) / 3,
            "ndcg": 1.5 / 4,
            "region_rate": 1 / 4,
            "invalid_rate": 1 / 4,
            "p_full": 0.45,  # of those that have one
            "iou": 0.6,
        }
    )


def test_recall_cuts_after_removing_duplicates() -> None:
    ranking = ["x"] * 5 + ["y", "a"]
    (row,) = metrics_table([outcome(ranking=ranking, rank=7.0)])
    assert values(row)["recall_at_5"] == 1.0 and values(row)["recall_at_1"] == 0.0


def test_any_gold_counts() -> None:
    (row,) = metrics_table([outcome(ranking=["b", "a"], gold=("c", "b"))])
    assert values(row)["recall_at_1"] == 1.0


def test_a_query_that_a_method_cannot_take_is_counted_as_skipped() -> None:
    outcomes = [outcome("q0", "full"), outcome("q1", "full"), outcome("q0", "reference")]
    full, reference = metrics_table(outcomes)
    assert (full.n, full.n_skipped, reference.n, reference.n_skipped) == (2, 0, 1, 1)
    assert metrics_table(outcomes, n_total=5)[0].n_skipped == 3


def test_undefined_is_none_and_a_dash() -> None:
    rows = metrics_table([outcome(pool_has_positive=False, ranking=["x"])])
    assert rows[0].metrics["cond_recall_at_1"] == Interval(None, None, None)
    assert rows[0].metrics["iou"].value is None
    assert " - |" in format_table(rows)
    assert json.loads(table_json(rows))[0]["metrics"]["iou"]["value"] is None
    assert next(csv.DictReader(io.StringIO(table_csv(rows))))["iou"] == ""


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ([outcome("q0"), outcome("q0")], "twice"),
        ([outcome(ranking=None, decision="FULL")], "must go together"),
        ([outcome(decision="INVALID")], "must go together"),
    ],
)
def test_contradictions_are_refused(outcomes, words) -> None:
    with pytest.raises(ValueError, match=words):
        metrics_table(outcomes)


def random_outcomes(n: int, clusters: int, seed: int, method: str, skill: float) -> list[Outcome]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        gold = f"e{rng.integers(clusters)}"
        right = rng.random() < skill
        positive = rng.random() < 0.8 or right
        ranking = [gold, "x"] if right else ["x", gold] if positive else ["x"]
        changes = {"cluster": gold, "pool_has_positive": bool(positive)}
        out.append(
            outcome(f"q{i}", method, ranking, (gold,), rank=1.0 if right else 2.0, **changes)
        )
    return out


def test_interval_matches_a_plain_bootstrap_over_entities() -> None:
    outcomes = random_outcomes(300, 40, 0, "policy", 0.5)
    interval = metrics_table(outcomes, resamples=4000)[0].metrics["cond_recall_at_1"]
    groups: dict[str, list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault(one.cluster, []).append(one)
    rng = np.random.default_rng(1)
    names, draws = list(groups), []
    for _ in range(4000):
        drawn = [o for i in rng.integers(len(names), size=len(names)) for o in groups[names[i]]]
        hits = sum(o.ranking[0] == o.gold_ids[0] for o in drawn)
        draws.append(hits / sum(o.pool_has_positive for o in drawn))
    assert (interval.low, interval.high) == pytest.approx(
        np.percentile(draws, [2.5, 97.5]), abs=0.01
    )
    assert interval.low < interval.value < interval.high


def test_same_seed_same_interval() -> None:
    outcomes = random_outcomes(50, 10, 0, "policy", 0.5)
    assert metrics_table(outcomes) == metrics_table(outcomes)


def test_paired_difference_is_tighter_than_two_intervals() -> None:
    hard = random_outcomes(400, 60, 3, "full", 0.4)
    better = [
        outcome(o.key, "policy", ["x", o.gold_ids[0]] if i % 10 else [o.gold_ids[0]], o.gold_ids)
        if o.ranking[0] == "x" and o.pool_has_positive
        else outcome(o.key, "policy", o.ranking, o.gold_ids, pool_has_positive=o.pool_has_positive)
        for i, o in enumerate(hard)
    ]
    difference = paired_difference([*hard, *better], "policy", "full")["recall_at_1"]
    full, _ = metrics_table([*hard, *better])
    assert difference.value > 0 and difference.low > 0
    spread = full.metrics["recall_at_1"]
    assert difference.high - difference.low < spread.high - spread.low
    with pytest.raises(ValueError, match="share no query"):
        paired_difference(hard, "full", "centre")


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 5))
def test_metrics_stay_in_bounds(n, clusters, seed) -> None:
    (row,) = metrics_table(random_outcomes(n, clusters, seed, "m", 0.5), resamples=50)
    for name in METRICS:
        value, low, high = row.metrics[name]
        assert value is None or 0 <= low <= high <= 1 + 1e-12
    recalls = [row.metrics[f"recall_at_{k}"].value for k in (1, 5, 10, 20)]
    assert recalls == sorted(recalls)
    conditional = row.metrics["cond_recall_at_1"].value
    assert conditional is None or conditional >= row.metrics["recall_at_1"].value


def test_one_cluster_has_no_spread() -> None:
    draws = ratio_draws(np.ones((3, 1)), np.full((3, 1), 2.0), [0, 0, 0], 1, 10, 0)
    assert (draws == 0.5).all()


def test_formats() -> None:
    rows = metrics_table([outcome("q0", "full"), outcome("q0", "policy", ["b", "a"], rank=2.0)])
    lines = format_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 4
    assert "CondR@1" in lines[0] and "1.000 [1.000, 1.000]" in lines[2]
    records = list(csv.DictReader(io.StringIO(table_csv(rows))))
    assert [r["method"] for r in records] == ["full", "policy"] and float(records[1]["mrr"]) == 0.5
    assert json.loads(table_json(rows))[1]["metrics"]["mrr"]["value"] == 0.5


def test_parts_of_the_split_are_told_apart() -> None:
    hit, miss = ("a", "b"), ("b", "a")
    found = [
        outcome(key, method, ranking, groups={"type": kind, "source": "web", **more})
        for method in ("full", "centre", "policy")
        for key, ranking, kind, more in (
            ("q0", hit, "automatic", {"subset": "seen"}),
            ("q1", miss if method == "full" else hit, "automatic", {}),
            ("q2", miss, "templated", {"subset": "unseen"}),
        )
    ]
    table = {row.method: (row.n, values(row)["recall_at_1"]) for row in grouped_table(found)}
    assert table == {  # one source is no part, and centre is no row
        "subset seen: full": (1, 1.0),
        "subset seen: policy": (1, 1.0),
        "subset unseen: full": (1, 0.0),
        "subset unseen: policy": (1, 0.0),
        "type automatic: full": (2, 0.5),
        "type automatic: policy": (2, 1.0),
        "type templated: full": (1, 0.0),
        "type templated: policy": (1, 0.0),
    }
    assert grouped_table([outcome()]) == []
