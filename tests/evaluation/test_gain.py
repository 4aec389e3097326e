"""The parts of the gain over the full image."""

import numpy as np
import pytest

from regionr1.evaluation.gain import PARTS, gain_parts, gain_table
from regionr1.evaluation.table import METRICS, Outcome

METHODS = ("full", "warm_start_region", "policy_region", "policy")


def outcomes(hits: dict[str, list[bool]]) -> list[Outcome]:
    return [
        Outcome(
            key=f"q{i}",
            cluster=f"e{i // 2}",
            method=method,
            ranking=["right", "wrong"] if hit else ["wrong", "right"],
            gold_ids=["right"],
            pool_has_positive=True,
            rank=1.0 if hit else 2.0,
            ndcg=1.0 if hit else 0.6,
            decision="FULL" if method == "full" else "REGION",
        )
        for method, row in hits.items()
        for i, hit in enumerate(row)
    ]


def test_parts_by_hand() -> None:
    found = gain_parts(
        outcomes({
            "full": [True, False, False, False],
            "warm_start_region": [False, True, True, False],
            "policy_region": [False, True, True, True],
            "policy": [True, True, True, True],
        }),
        resamples=200,
    )  # fmt: skip
    assert found is not None
    values = {part: metrics["recall_at_1"].value for part, metrics in found.items()}
    assert values == {"switch": 0.25, "boxes": 0.25, "decision": 0.25, "gain": 0.75}
    # In each draw of the two entities, e0 gains 0 by the switch and e1 gains 1 in two.
    switch = found["switch"]["recall_at_1"]
    assert (switch.low, switch.high) == (0.0, 0.5)
    text = gain_table(found)
    assert "+0.250 [+0.000, +0.500]" in text and text.count("\n") == 1 + len(PARTS)


def test_parts_add_up_in_every_metric() -> None:
    rng = np.random.default_rng(3)
    hits = {method: [bool(x) for x in rng.random(60) < 0.5] for method in METHODS}
    found = gain_parts(outcomes(hits), resamples=10)
    assert found is not None
    for name in METRICS:
        parts = [found[part][name].value for part in ("switch", "boxes", "decision", "gain")]
        if parts[-1] is not None:
            assert sum(parts[:3]) == pytest.approx(parts[-1]), name


@pytest.mark.parametrize("method", METHODS)
def test_no_parts_where_a_method_is_missing(method) -> None:
    hits = {other: [True, False] for other in METHODS if other != method}
    assert gain_parts(outcomes(hits)) is None
