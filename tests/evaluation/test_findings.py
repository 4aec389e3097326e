"""What a test finds: text, files and numbers that agree with each other."""

import json

import pytest
from decided_queries import FOUR

from regionr1.evaluation.findings import Findings
from regionr1.evaluation.threshold import Threshold, threshold_outcomes


def test_text_files_and_numbers_agree() -> None:
    threshold = Threshold(0.85, 9)
    found = Findings([*FOUR, *threshold_outcomes(FOUR, threshold.value)], threshold)
    text, files, values = found.text(), found.files(), found.values()
    assert "P(REGION) > 0.850, fitted on 9 validation queries" in text
    rows = {row["method"]: row for row in json.loads(files["test_table.json"])}
    assert list(rows) == ["full", "policy_region", "policy", "policy_threshold"]
    for method, row in rows.items():
        assert values[f"{method}/recall_at_1"] == row["metrics"]["recall_at_1"]["value"]
        assert f"| {method} " in text and f"| {method} " in files["test_table.md"]
    decision = json.loads(files["test_decision.json"])
    (policy,) = (row for row in decision["rows"] if row["name"] == "policy")
    assert values["decision/policy/auroc"] == policy["auroc"]["value"] == 0.75
    assert decision["threshold"] == {"value": 0.85, "n": 9}
    assert values["policy_threshold/threshold"] == 0.85
    assert decision["risk_coverage"]["policy"][-1] == [1.0, 0.5]
    assert decision["risk_coverage"]["warm_start"] == []
    # Four answerable queries of five go right, where the policy got three.
    assert values["policy_threshold/cond_recall_at_1"] == pytest.approx(4 / 5)
    assert values["policy/cond_recall_at_1"] == pytest.approx(3 / 5)


def test_rows_that_were_not_tested_leave_no_trace() -> None:
    found = Findings([o for o in FOUR if o.method == "full"])
    assert set(found.files()) == {
        *(f"test_table.{suffix}" for suffix in ("md", "csv", "json")),
        *(f"test_table_by_part.{suffix}" for suffix in ("md", "csv", "json")),
    }
    assert not any(name.startswith(("decision/", "gain/")) for name in found.values())
    assert "decision" not in found.text() and "policy_threshold" not in found.text()
