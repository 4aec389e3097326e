"""Table 7 by hand, and that contradictions between tables would be seen."""

import math

import pytest

from regionr1.evaluation.consistency import contradictions
from regionr1.evaluation.crop_quality import crop_quality, crop_quality_table
from regionr1.evaluation.table import Outcome


def outcome(key: str, method: str, box=None, rank: float = 1.0, **changes) -> Outcome:
    ranking = ["a", "b"] if rank == 1 else ["b", "a"]
    values = {"ranking": ranking, "decision": "FULL" if box is None else "REGION", **changes}
    return Outcome(key=key, cluster=key, method=method, gold_ids=["a"], pool_has_positive=True,
                   rank=rank, ndcg=1.0, box_unit=box, **values)  # fmt: skip


def test_iou_containment_and_pointing_by_hand() -> None:
    found = [
        outcome("q0", "reference", (0.0, 0.0, 0.5, 0.5)),
        outcome("q1", "reference", (0.5, 0.5, 1.0, 1.0)),
        outcome("q2", "reference", (0.0, 0.0, 1.0, 1.0)),  # the whole image: nothing to crop
        outcome("q0", "policy", (0.0, 0.0, 0.5, 1.0)),  # holds the box and as much again
        outcome("q1", "policy"),  # kept whole
        outcome("q2", "policy", (0.0, 0.0, 0.5, 0.5)),
        outcome("q0", "policy_region", (0.25, 0.25, 0.75, 0.75)),
        outcome("q1", "policy_region", (0.0, 0.0, 0.5, 0.5)),  # beside it
    ]
    policy, forced = crop_quality(found)
    assert (policy.method, policy.n, policy.n_skipped) == ("policy", 1, 1)
    assert (policy.iou, policy.containment, policy.area) == pytest.approx((0.5, 1.0, 0.5))
    assert policy.pointing == 1, "its middle lies on the box's lower edge"
    assert forced.n == 2 and forced.pointing == 0.5
    assert forced.containment == pytest.approx((0.25 + 0) / 2)
    assert forced.iou == pytest.approx((0.0625 / 0.4375 + 0) / 2)
    table = crop_quality_table([[policy, forced], [policy]])
    assert "policy_region" not in table and "| policy" in table


def test_without_reference_boxes_there_is_no_table() -> None:
    assert crop_quality([outcome("q0", "policy", (0.0, 0.0, 0.5, 0.5))]) == []


def test_tables_of_the_same_rows_agree_and_a_broken_row_is_seen() -> None:
    good = [outcome("q0", "full"), outcome("q1", "full", rank=2.0),
            outcome("q0", "policy"), outcome("q1", "policy", (0.0, 0.0, 0.5, 0.5))]  # fmt: skip
    assert contradictions(good) == []
    changed = [*good[:2], outcome("q0", "policy", rank=2.0), good[3]]
    assert any("kept the full image and another rank" in text for text in contradictions(changed))
    assert any("more changed than was cropped" in text for text in contradictions(changed))
    lost = [*good[:3], outcome("q1", "policy", (0.0, 0.0, 0.5, 0.5), rank=math.inf)]
    lost[3].ranking = ["a"]  # the ranking says first, the rank says never
    assert any("do not add up" in text for text in contradictions(lost))
