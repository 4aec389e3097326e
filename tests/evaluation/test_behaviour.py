"""What a policy did, from hand-worked rankings."""

from dataclasses import replace

import pytest

from regionr1.evaluation.behaviour import behaviour, crop_rates, wording_auroc
from regionr1.evaluation.decision_quality import Case, decision_quality
from regionr1.evaluation.table import Outcome

WIN = Case("w", "e", 0.9, full=1 / 3, crop=1, chosen=1, cropped=True, groups={"subset": "small"})
LOSS = Case("l", "e", 0.2, full=1, crop=1 / 4, chosen=1, cropped=False, groups={"subset": "wide"})
TIE = Case("t", "e", 0.7, full=0.5, crop=0.5, chosen=0.5, cropped=True, groups={"subset": "wide"})


def test_crop_rates_by_kind_and_by_what_is_wanted() -> None:
    assert crop_rates([WIN, LOSS, TIE], {"w": True, "l": False}) == {
        **{"small": 1.0, "wide": 0.5, "crop better": 1.0, "full better": 0.0},
        **{"wants crop": 1.0, "wants full": 0.0},
    }


def test_within_one_wording_a_keyword_is_worth_nothing() -> None:
    by_word = [
        replace(case, key=word, p_region=p)
        for word, p in (("where?", 0.1), ("what?", 0.9))
        for case in ((WIN, LOSS, LOSS) if word == "where?" else (WIN, WIN, LOSS))
    ]
    words = {"where?": "where?", "what?": "what?"}
    told = decision_quality("policy", by_word, resamples=0).auroc.value
    assert told is not None and told > 0.6
    assert wording_auroc(by_word, words) == 0.5
    assert wording_auroc([WIN, LOSS], {"w": "what?", "l": "where?"}) is None


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
