"""Runs sorted into settings: runs that differ in their seed only measure one setting."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.by_rank import Band, by_full_rank
from regionr1.evaluation.compare import config_difference, seed_groups
from regionr1.evaluation.decision_quality import HEADS, DecisionQuality, decision_rows
from regionr1.evaluation.markdown import interval_cell, markdown_table, spread_cell
from regionr1.evaluation.settings import SEEDS
from regionr1.evaluation.several import (
    Estimate,
    holm,
    seed_gain,
    seed_rows,
    setting_difference,
)
from regionr1.evaluation.table import METRICS, MethodRow, Outcome, metrics_table
from regionr1.evaluation.tested import TestedRun

COMPARED = ("cond_recall_at_1", "recall_at_1", "mrr", "ndcg")


@dataclass
class Setting:
    """Runs that differ in their seeds only.

    Attributes:
        name: What their names have in common.
        runs: At least one.
    """

    name: str
    runs: list[TestedRun]

    @property
    def outcomes(self) -> list[Sequence[Outcome]]:
        """The outcomes of each run, all methods."""
        return [run.outcomes for run in self.runs]

    @property
    def methods(self) -> list[str]:
        """The methods that all runs were tested with."""
        of_runs = [dict.fromkeys(o.method for o in run.outcomes) for run in self.runs]
        return [name for name in of_runs[0] if all(name in other for other in of_runs)]

    def rows(self, keys: set[str] | None = None) -> list[MethodRow]:
        """The test table, over the seeds where there are several.

        Args:
            keys: Only these queries; None for all.
        """
        of_runs = [[o for o in run if keys is None or o.key in keys] for run in self.outcomes]
        return metrics_table(of_runs[0]) if len(of_runs) == 1 else seed_rows(of_runs)

    def gain(self, method: str, baseline: str) -> dict[str, Estimate]:
        """One method minus another, within each run."""
        return seed_gain(self.outcomes, method, baseline)


def settings_of(runs: Sequence[TestedRun]) -> list[Setting]:
    """The settings in order of first appearance, under names that tell them apart."""
    groups = seed_groups(runs)
    names = [_name([run.name for run in group]) for group in groups]
    if len(set(names)) < len(names):  # as in a sweep, whose trials have one name and a number
        changed = config_difference([group[0] for group in groups])
        told = {key: values for key, values in changed.items() if not key.startswith(SEEDS)}
        names = [
            ", ".join(f"{key.rpartition('.')[2]}={values[n]}" for key, values in told.items())
            for n in range(len(groups))
        ]
    return [Setting(name, group) for name, group in zip(names, groups, strict=True)]


def tell_apart(settings: Sequence[Setting], by: Callable[[TestedRun], str]) -> None:
    """Adds what is said of their first run to the names that several settings have."""
    taken = Counter(setting.name for setting in settings)
    for setting in settings:
        if taken[setting.name] > 1:
            setting.name += f", {by(setting.runs[0])}"


def _name(names: Sequence[str]) -> str:
    """`exact, 2 seeds` of exact-seed0 and exact-seed1; the first name where nothing is shared."""
    if len(names) == 1:
        return names[0]
    common = re.sub(r"[\W_]*(seed)?[\W_]*$", "", os.path.commonprefix(names))
    return f"{common or names[0]}, {len(names)} seeds"


def settings_table(settings: Sequence[Setting], method: str) -> str:
    """One method under every setting, and its difference to the first, corrected for their number.

    Args:
        settings: At least two.
        method: A row of the test table that all have.
    """
    first, *others = settings
    rows = []
    differences = [setting_difference(other.outcomes, first.outcomes, method) for other in others]
    shown = COMPARED[0]
    p_values = holm([difference[shown].p_value() for difference in differences])
    for n, setting in enumerate(settings):
        (row,) = [row for row in setting.rows() if row.method == method]
        cells = [interval_cell(row.metrics[metric]) for metric in COMPARED]
        gap, p = "-", "-"
        if n:
            gap = interval_cell(differences[n - 1][shown].interval(), "+.3f")
            p = _p_cell(p_values[n - 1])
        counts = (str(len(setting.runs)), str(row.n_pool_positive), str(row.n), str(row.n_skipped))
        rows.append([setting.name, *cells, gap, p, *counts])
    heads = [
        f"row {method}",
        *(METRICS[metric] for metric in COMPARED),
        f"{METRICS[shown]} minus {first.name}",
        "p, Holm",
        "seeds",
        "N of CondR",
        "N",
        "skipped",
    ]
    return markdown_table(heads, rows)


def _p_cell(p: float | None) -> str:
    if p is None:
        return "-"
    return f"{p:.4f}" if p >= 1e-4 else "< 0.0001"


def mean_bands(setting: Setting) -> list[Band]:
    """Behaviour by the full image's rank, means over the seeds."""
    by_seed = [{(b.policy, b.ranks): b for b in by_full_rank(run)} for run in setting.outcomes]
    return [
        Band(
            *place,
            n=band.n,
            **{
                name: mean(getattr(found[place], name) for found in by_seed)
                for name in ("crops", "invalid", "helped", "hurt", "first")
            },
        )
        for place, band in by_seed[0].items()
        if all(place in found for found in by_seed)
    ]


def seeds_decision_table(setting: Setting) -> str | None:
    """Quality of the decision, mean ± sd over seeds; None where a run has no forced crops."""
    by_seed = [{row.name: row for row in decision_rows(run)} for run in setting.outcomes]
    names = [name for name in by_seed[0] if all(name in found for found in by_seed)]
    if not names:
        return None
    rows = [[name, *_spread([found[name] for found in by_seed])] for name in names]
    return markdown_table([f"decision, {len(by_seed)} seeds", *HEADS.values()], rows)


def _spread(rows: Sequence[DecisionQuality]) -> list[str]:
    cells = []
    for name in HEADS:
        values = [getattr(row, name) for row in rows]
        plain = [value.value if isinstance(value, Interval) else value for value in values]
        counts = all(isinstance(value, int) for value in values)
        cells.append(f"{mean(values):.0f}" if counts else spread_cell(plain))
    return cells
