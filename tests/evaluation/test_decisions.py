"""How well a policy decides, from hand-worked rankings."""

from dataclasses import replace

import numpy as np
import pytest

from regionr1.evaluation.decisions import (
    Decided,
    auroc,
    behaviour,
    crop_rates,
    decided,
    decision_auroc,
    regret,
    wording_auroc,
)
from regionr1.evaluation.table import Outcome

WIN = Decided("small", "what?", 0.9, True, rank_full=3, rank_region=1)
LOSS = Decided("wide", "what?", 0.2, False, rank_full=1, rank_region=4)
TIE = Decided("wide", "where?", 0.7, True, rank_full=2, rank_region=2)


def test_auroc_counts_pairs_and_halves_ties() -> None:
    assert auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert auroc([1, 1, 1], [True, False, False]) == 0.5
    assert np.isnan(auroc([0.3], [True]))


def test_a_tie_has_nothing_to_decide_but_is_cropped() -> None:
    assert decision_auroc([WIN, LOSS, TIE]) == 1.0
    assert decision_auroc([WIN, replace(LOSS, p_region=0.95)]) == 0.0
    rates = crop_rates([WIN, LOSS, TIE])
    assert rates == {"small": 1.0, "wide": 0.5, "crop better": 1.0, "full better": 0.0}


def test_within_one_wording_a_keyword_is_worth_nothing() -> None:
    by_word = [
        replace(row, question=word, p_region=p)
        for word, p in (("where?", 0.1), ("what?", 0.9))
        for row in ((WIN, LOSS, LOSS) if word == "where?" else (WIN, WIN, LOSS))
    ]
    assert decision_auroc(by_word) > 0.6
    assert wording_auroc(by_word) == 0.5
    assert np.isnan(wording_auroc([WIN, replace(LOSS, question="where?")]))


def test_regret_is_lost_hits() -> None:
    assert regret([WIN, LOSS, TIE]) == 0.0
    wrong = [replace(WIN, cropped=False), replace(LOSS, cropped=True), TIE]
    assert regret(wrong) == pytest.approx(2 / 3)


def test_rows_come_from_outcomes_that_can_be_answered() -> None:
    def outcome(key, method, rank, decision="FULL", p_full=None, positive=True) -> Outcome:
        return Outcome(
            key=key, cluster="c", method=method, ranking=["a"], gold_ids=["a"],
            pool_has_positive=positive, rank=rank, ndcg=0.5, decision=decision, p_full=p_full,
            groups={"subset": "small"},
        )  # fmt: skip

    outcomes = [
        *(outcome("q", "full", 2), outcome("q", "policy", 1, "REGION", 0.25)),
        *(
            outcome("q", "policy_region", 1, "REGION", 0.25),
            outcome("r", "full", 1, positive=False),
        ),
        *(outcome("r", "policy", 1, p_full=0.9), outcome("r", "policy_region", 1, "REGION", 0.9)),
    ]
    assert decided(outcomes, {"q": "what?"}) == [
        Decided("small", "what?", 0.75, True, rank_full=2, rank_region=1)
    ]
    whole = replace(outcomes[0], method="reference", box_unit=(0.0, 0.0, 1.0, 1.0))
    part = replace(whole, box_unit=(0.0, 0.0, 0.5, 1.0))
    for reference, wanted in ((whole, False), (part, True)):
        (row,) = decided([*outcomes, reference])
        assert row.wants_crop is wanted


def test_behaviour_sums_a_test_up() -> None:
    def outcomes(key, full, region, untrained, decision, box) -> list[Outcome]:
        ranks = {
            "full": full, "policy_region": region, "warm_start_region": untrained,
            "policy": region if decision == "REGION" else full, "reference": 1,
        }  # fmt: skip
        return [
            Outcome(
                key=key,
                cluster=key,
                method=method,
                ranking=["b"] * (rank - 1) + ["a"],
                gold_ids=["a"],
                pool_has_positive=True,
                rank=rank,
                ndcg=1.0,
                decision=decision if method == "policy" else "FULL",
                box_unit=box if method == "reference" else None,
                p_full=0.1 if decision == "REGION" else 0.9,
            )  # fmt: skip
            for method, rank in ranks.items()
        ]

    part, whole = (0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 1.0, 1.0)
    found = behaviour(
        [
            *outcomes("q", 2, 1, 2, "REGION", part),
            *outcomes("r", 1, 2, 2, "FULL", whole),
            *outcomes("s", 2, 1, 1, "FULL", part),
        ],
        {},
    )
    assert found["auroc"] == 0.75 and found["regret"] == pytest.approx(1 / 3)
    assert found["of_better"] == pytest.approx(2 / 3)
    assert found["crop_rates"]["wants crop"] == 0.5 and found["crop_rates"]["wants full"] == 0
    assert found["above"]["full"].value == pytest.approx(1 / 3)
    assert found["above"]["warm_start_region"].value == pytest.approx(1 / 3)
    assert found["above"]["boxes"].value == pytest.approx(1 / 2)
