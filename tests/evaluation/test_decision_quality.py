"""The quality of decisions from hand-worked queries, and against plain loops."""

import math

import numpy as np
import pytest
from decided_queries import FOUR, query
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from regionr1.evaluation.decision_quality import (
    Case,
    DecisionQuality,
    decision_cases,
    decision_quality,
    decision_record,
    decision_rows,
    decision_table,
    decision_values,
    risk_coverage,
    weighted_auroc,
)
from regionr1.evaluation.table import Outcome


def test_by_hand() -> None:
    found = decision_quality("policy", decision_cases(FOUR, "policy"), resamples=50)
    assert (found.n, found.n_ties, found.crop_better) == (5, 1, 0.5)
    # wants a crop: 0.9, 0.4; wants the full image: 0.8, 0.3. Three of the four pairs are in order.
    assert found.auroc.value == 0.75
    assert found.auprc == pytest.approx((1 + 2 / 3) / 2)
    # q2 and q4 lose the hit: 1 - 1/4 and 1 - 1/3 of a reciprocal rank
    assert found.regret_recall_at_1.value == pytest.approx(2 / 5)
    assert found.regret_mrr.value == pytest.approx((3 / 4 + 2 / 3) / 5)
    assert found.brier == pytest.approx((0.1**2 + 0.8**2 + 0.3**2 + 0.6**2) / 4)
    assert found.ece == pytest.approx((0.1 + 0.8 + 0.3 + 0.6) / 4)  # each in a bin of its own
    assert found.crop_rate == 3 / 5
    assert (found.crop_rate_crop_better, found.crop_rate_full_better) == (0.5, 0.5)
    low, high = found.regret_recall_at_1.low, found.regret_recall_at_1.high
    assert low is not None and high is not None and 0 <= low < 2 / 5 < high <= 1


def test_risk_is_of_the_surest_decisions_first() -> None:
    curve = risk_coverage(decision_cases(FOUR, "policy"))
    # sure by 0.4 (right), 0.3 (wrong), 0.2 (right), 0.1 (wrong)
    assert curve == [(0.25, 0.0), (0.5, 0.5), (0.75, 1 / 3), (1.0, 0.5)]
    found = decision_quality("policy", decision_cases(FOUR, "policy"), resamples=0)
    assert found.aurc == pytest.approx((0 + 0.5 + 1 / 3 + 0.5) / 4)
    alike = [
        Case("q", "e", 0.5, 1.0, 0.5, 1.0, False, {}),
        Case("q", "e", 0.5, 0.5, 1.0, 0.5, False, {}),
    ]
    assert risk_coverage(alike) == [(1.0, 0.5)]  # equally sure: one point, in no order
    # three of four are wholly sure, one of them wrongly: the point counts as three
    sure = [
        Case("q", "e", p, full, crop, 1.0, p > 0.5, {})
        for p, full, crop in ((1.0, 0.5, 1.0), (1.0, 0.5, 1.0), (1.0, 1.0, 0.5), (0.4, 1.0, 0.5))
    ]
    assert risk_coverage(sure) == [(0.75, 1 / 3), (1.0, 0.25)]
    found = decision_quality("policy", sure, resamples=0)
    assert found.aurc == pytest.approx(0.75 / 3 + 0.25 * 0.25)


def test_an_invalid_answer_has_all_the_regret() -> None:
    outcomes = query("q1", 0.9, full=1, crop=2, cropped=True)
    outcomes[2].decision, outcomes[2].ranking = "INVALID", None
    outcomes[2].rank = 1.0  # whatever the module put there
    found = decision_quality("policy", decision_cases(outcomes, "policy"), resamples=0)
    assert found.regret_recall_at_1.value == found.regret_mrr.value == 1.0
    assert found.crop_rate == 0.0


def test_what_cannot_be_measured_is_undefined() -> None:
    ties = [*query("q1", 0.9, 1, 1, True), *query("q2", 0.2, 3, 3, False)]
    found = decision_quality("policy", decision_cases(ties, "policy"), resamples=5)
    assert (found.n, found.n_ties) == (2, 2)
    assert found.auroc == (None, None, None)
    assert found.auprc is found.ece is found.brier is found.aurc is found.crop_better is None
    assert " - |" in decision_table([found]) and "auroc" not in decision_values(found)
    assert decision_record(found)["auroc"] == {"value": None, "low": None, "high": None}
    one_kind = decision_cases(query("q1", 0.9, 2, 1, True), "policy")
    alone = decision_quality("policy", one_kind, resamples=5)
    assert alone.auroc.value is alone.auprc is None and alone.brier == pytest.approx(0.01)


def test_rows_are_of_both_policies_and_of_the_parts() -> None:
    assert [row.name for row in decision_rows(FOUR)] == [
        *("policy", "kind place: policy", "kind thing: policy"),
    ]
    before = [
        Outcome(**{**vars(o), "method": o.method.replace("policy", "warm_start")})
        for o in FOUR
        if o.method != "full"
    ]
    rows = decision_rows([*FOUR, *before])
    assert [row.name for row in rows][:2] == ["warm_start", "policy"]
    assert rows[0].auroc == rows[1].auroc
    assert decision_rows([o for o in FOUR if o.method != "policy_region"]) == []


cases = st.lists(
    st.builds(
        Case,
        cluster=st.sampled_from("abc"),
        p_region=st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.6, 0.9, 1.0]),
        full=st.sampled_from([1.0, 0.5, 0.25]),
        crop=st.sampled_from([1.0, 0.5, 0.0]),
        chosen=st.sampled_from([1.0, 0.5, 0.0]),
        cropped=st.booleans(),
        groups=st.just({}),
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(cases)
def test_auroc_is_the_chance_that_a_pair_is_in_order(cases) -> None:
    found = decision_quality("m", cases, resamples=2)
    wants_crop = [c.p_region for c in cases if c.crop > c.full]
    wants_full = [c.p_region for c in cases if c.crop < c.full]
    if not wants_crop or not wants_full:
        assert found.auroc.value is None
        return
    pairs = [(a > b) + 0.5 * (a == b) for a in wants_crop for b in wants_full]
    assert found.auroc.value == pytest.approx(sum(pairs) / len(pairs))
    for value in decision_values(found).values():
        assert math.isfinite(value)


@settings(deadline=None)
@given(cases, st.integers(0, 9))
def test_weighted_auroc_is_scikit_learns(cases, seed) -> None:
    target = np.array([c.crop > c.full for c in cases])
    p = np.array([c.p_region for c in cases])
    weights = np.random.default_rng(seed).integers(0, 3, (4, len(cases))).astype(float)
    for found, w in zip(weighted_auroc(target, p, weights), weights, strict=True):
        if w[target].sum() and w[~target].sum():
            assert found == pytest.approx(roc_auc_score(target, p, sample_weight=w))
        else:
            assert math.isnan(found)


@settings(deadline=None)
@given(cases)
def test_deciding_right_leaves_no_regret(cases) -> None:
    best = [
        Case(
            c.key, c.cluster, float(c.crop > c.full), c.full, c.crop, max(c.full, c.crop), False, {}
        )
        for c in cases
    ]
    found = decision_quality("m", best, resamples=2)
    assert found.regret_mrr == found.regret_recall_at_1 == (0.0, 0.0, 0.0)
    assert found.brier in (0.0, None) and found.aurc in (0.0, None)
    assert found.auroc.value in (1.0, None)


def test_the_interval_is_of_entities_and_not_of_queries() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.random(40) < 0.5

    def made(per_entity: int) -> DecisionQuality:
        p = np.where(kinds, 0.6, 0.4) + rng.normal(0, 0.2, 40)
        cases = [
            Case("q", str(i if per_entity == 4 else (i, n)), float(np.clip(p[i], 0, 1)),
                 0.5 if kinds[i] else 1.0, 1.0 if kinds[i] else 0.5, 1.0, False, {})
            for i in range(40) for n in range(4)
        ]  # fmt: skip
        return decision_quality("m", cases)

    together, alone = made(4).auroc, made(1).auroc
    assert together.low < together.value < together.high
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
