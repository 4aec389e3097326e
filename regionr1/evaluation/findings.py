"""All that a test finds, from the outcome of each query: as text, as files and as numbers."""

import json
from collections.abc import Sequence

from regionr1.evaluation.by_rank import band_table, by_full_rank
from regionr1.evaluation.decision_quality import (
    DECIDERS,
    decision_cases,
    decision_record,
    decision_rows,
    decision_table,
    decision_values,
    risk_coverage,
)
from regionr1.evaluation.gain import gain_parts, gain_table
from regionr1.evaluation.render import format_table, table_csv, table_json
from regionr1.evaluation.table import METRICS, MethodRow, Outcome, grouped_table, metrics_table
from regionr1.evaluation.threshold import Threshold

TABLE, BY_PART = "test_table", "test_table_by_part"
NOTE = "[95% intervals: 1000 bootstrap resamples of the entities]"
SHOWN = ("recall_at_1", "cond_recall_at_1", "mrr", "region_rate", "p_full")
SHOWN_GAIN = ("cond_recall_at_1",)
SHOWN_DECISION = ("auroc", "regret_recall_at_1")
SHOWN_BY_PART = ("cond_recall_at_1", "region_rate")


def _is_main(row: MethodRow) -> bool:
    return row.method.rpartition(": ")[2] in ("full", "policy", "reference")


class Findings:
    """The tables of one test.

    Args:
        outcomes: Outcomes of all methods, at least one.
        threshold: What the row `policy_threshold` was made with.
    """

    def __init__(self, outcomes: Sequence[Outcome], threshold: Threshold | None = None) -> None:
        self.outcomes = outcomes
        self.threshold = threshold
        self.rows = metrics_table(outcomes)
        self.by_part = grouped_table(outcomes)
        self.gain = gain_parts(outcomes)
        self.decisions = decision_rows(outcomes)
        self.bands = by_full_rank(outcomes)

    def text(self) -> str:
        """What people read at the end of a test, 100 columns wide; the files hold every measure."""
        parts = [f"{format_table(self.rows, SHOWN)}\n{NOTE}"]
        if self.threshold is not None:
            parts.append(
                f"policy_threshold crops where P(REGION) > {self.threshold.value:.3f}, fitted on "
                f"{self.threshold.n} validation queries"
            )
        if self.gain:
            parts.append(gain_table(self.gain, SHOWN_GAIN))
        if self.decisions:
            parts.append(decision_table(self.decisions, SHOWN_DECISION))
        if self.bands:
            parts.append(band_table(self.bands))
        if self.by_part:
            parts.append(format_table([r for r in self.by_part if _is_main(r)], SHOWN_BY_PART))
        return "\n\n".join(parts)

    def files(self) -> dict[str, str]:
        """Texts of the artifacts by file name."""
        found = {}
        for name, rows in ((TABLE, self.rows), (BY_PART, self.by_part)):
            if rows:
                found[f"{name}.md"] = format_table(rows, list(METRICS), list(METRICS)) + "\n"
                found[f"{name}.csv"] = table_csv(rows)
                found[f"{name}.json"] = table_json(rows)
        if self.gain:
            found["test_gain.md"] = gain_table(self.gain) + "\n"
        if self.bands:
            found["test_by_rank.md"] = band_table(self.bands) + "\n"
        if self.decisions:
            found["test_decision.md"] = decision_table(self.decisions) + "\n"
            found["test_decision.json"] = self._decision_json()
        return found

    def values(self) -> dict[str, float]:
        """The defined numbers by name, for a tracker."""
        values = {
            f"{row.method}/{name}": row.metrics[name].value for row in self.rows for name in METRICS
        }
        for part, differences in (self.gain or {}).items():
            values |= {f"gain/{part}/{name}": x.value for name, x in differences.items()}
        for row in self.decisions:
            if row.name in DECIDERS:
                values |= {f"decision/{row.name}/{k}": v for k, v in decision_values(row).items()}
        if self.threshold is not None:
            values["policy_threshold/threshold"] = self.threshold.value
        return {name: value for name, value in values.items() if value is not None}

    def _decision_json(self) -> str:
        curves = {
            policy: risk_coverage(decision_cases(self.outcomes, policy)) for policy in DECIDERS
        }
        record = {
            "rows": [decision_record(row) for row in self.decisions],
            "risk_coverage": curves,
            "threshold": None if self.threshold is None else self.threshold._asdict(),
        }
        return json.dumps(record, indent=1) + "\n"
