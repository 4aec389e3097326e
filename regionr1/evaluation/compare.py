"""Runs against each other: what was set differently, and what it changed on the same queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from regionr1.errors import UserError
from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.comparable import differing
from regionr1.evaluation.markdown import interval_cell, markdown_table
from regionr1.evaluation.permutation import permutation_p_values
from regionr1.evaluation.settings import SEEDS, settings
from regionr1.evaluation.several import holm
from regionr1.evaluation.table import METRICS, Outcome, metrics_table, paired_difference
from regionr1.evaluation.tested import TestedRun

COMPARED = ("cond_recall_at_1", "recall_at_1", "mrr", "ndcg", "region_rate", "invalid_rate")


def config_difference(runs: Sequence[TestedRun]) -> dict[str, list[Any]]:
    """Keys that are not set alike in all runs, with the value of each run."""
    configs = [settings(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    return {
        key: [config.get(key) for config in configs]
        for key in keys
        if any(config.get(key) != configs[0].get(key) for config in configs)
    }


def differences(
    runs: Sequence[TestedRun], method: str, resamples: int = 1000
) -> dict[str, dict[str, Interval]]:
    """Each run minus the first on the queries both were tested on, by run and metric.

    Raises:
        UserError: If a run lacks the method, or shares no query with the first.
    """
    relabelled = {run.name: _of_method(run, method) for run in runs}
    first, *others = runs
    found = {}
    for run in others:
        try:
            found[run.name] = paired_difference(
                [*relabelled[first.name], *relabelled[run.name]], run.name, first.name, resamples
            )
        except ValueError as error:
            raise UserError(f"{error}; test both on the same data") from error
    return found


def _of_method(run: TestedRun, method: str) -> list[Outcome]:
    outcomes = [replace(o, method=run.name) for o in run.outcomes if o.method == method]
    if not outcomes:
        methods = ", ".join(dict.fromkeys(o.method for o in run.outcomes))
        raise UserError(f"{run.name} was not tested with method {method!r}; it has {methods}")
    return outcomes


def _p_values(first: TestedRun, run: TestedRun, method: str) -> dict[str, float | None]:
    both = [*_of_method(first, method), *_of_method(run, method)]
    return permutation_p_values(both, run.name, first.name)


def verdict(difference: Interval) -> str:
    """Whether an interval tells a difference from noise."""
    if difference.low is None or difference.high is None:
        return "undefined"
    if difference.low > 0:
        return "higher"
    return "lower" if difference.high < 0 else "within noise"


def seed_groups(runs: Sequence[TestedRun]) -> list[list[TestedRun]]:
    """Runs that differ in nothing but seeds, together."""
    groups: dict[str, list[TestedRun]] = {}
    for run in runs:
        kept = {k: v for k, v in settings(run.config).items() if k not in SEEDS}
        groups.setdefault(repr(sorted(kept.items())), []).append(run)
    return list(groups.values())


def seed_interval(values: Sequence[float]) -> Interval:
    """Mean of independent runs with its 95% t-interval; no interval from a single run."""
    centre = mean(values)
    if len(values) < 2:
        return Interval(centre, None, None)
    quantile = float(student.ppf(0.975, df=len(values) - 1))
    half = quantile * stdev(values) / math.sqrt(len(values))
    return Interval(centre, centre - half, centre + half)


def compare(runs: Sequence[TestedRun], method: str = "policy", resamples: int = 1000) -> str:
    """Return the comparison as text for people.

    Args:
        runs: At least two runs, or several seeds of one.
        method: The row of the test table that is compared.
        resamples: Bootstrap draws.
    """
    parts = [_config_part(runs), _values_part(runs, method, resamples)]
    parts += [_difference_part(runs, method, resamples)]
    parts += [f"Warning: {text}" for run in runs[1:] for text in differing(runs[0], run)]
    groups = [group for group in seed_groups(runs) if len(group) > 1]
    parts += [_seeds_part(group, method) for group in groups]
    return "\n\n".join(parts) + "\n"


def _config_part(runs: Sequence[TestedRun]) -> str:
    changed = config_difference(runs)
    if not changed:
        return "The configs are equal."
    rows = [[key, *map(str, values)] for key, values in changed.items()]
    return markdown_table(["config", *(run.name for run in runs)], rows)


def _values_part(runs: Sequence[TestedRun], method: str, resamples: int) -> str:
    rows = []
    for run in runs:
        (row,) = metrics_table(_of_method(run, method), resamples=resamples)
        cells = [interval_cell(row.metrics[name]) for name in COMPARED]
        rows.append([run.name, str(row.n), *cells])
    return markdown_table([f"test, {method}", "N", *(METRICS[name] for name in COMPARED)], rows)


def _difference_part(runs: Sequence[TestedRun], method: str, resamples: int) -> str:
    rows = []
    found = differences(runs, method, resamples)
    p_values = [_p_values(runs[0], run, method) for run in runs[1:]]
    corrected = {metric: holm([p[metric] for p in p_values]) for metric in COMPARED}
    for n, (name, values) in enumerate(found.items()):
        for metric in COMPARED:
            p = corrected[metric][n]
            rows.append(
                [
                    *(f"{name} - {runs[0].name}", METRICS[metric]),
                    interval_cell(values[metric], "+.3f"),
                    "-" if p is None else f"{p:.4f}",
                    verdict(values[metric]),
                ]
            )
    note = (
        "95% intervals: paired bootstrap on the same queries, resampled by entity. p: paired "
        "permutation test, by entity"
        + (f", corrected by Holm for {len(runs) - 1} runs." if len(runs) > 2 else ".")
    )
    first = {o.key for o in _of_method(runs[0], method)}
    for run in runs[1:]:
        keys = {o.key for o in _of_method(run, method)}
        if keys != first:
            note += (
                f"\n{run.name} was tested on other queries than {runs[0].name}: only the "
                f"{len(keys & first)} that both have are paired."
            )
    return markdown_table(["difference", "metric", "paired", "p", "verdict"], rows) + f"\n{note}"


def _seeds_part(group: Sequence[TestedRun], method: str) -> str:
    rows = []
    tables = [metrics_table(_of_method(run, method), resamples=1)[0].metrics for run in group]
    for metric in COMPARED:
        values = [table[metric].value for table in tables]
        known = [value for value in values if value is not None]
        if known:
            cells = [f"{value:.3f}" for value in known]
            rows.append([METRICS[metric], interval_cell(seed_interval(known)), *cells])
    names = ", ".join(run.name for run in group)
    heads = [f"{len(group)} seeds, {method}", "mean", *(run.name for run in group)]
    note = f"95% t-interval over the seeds {names}."
    return markdown_table(heads, rows) + f"\n{note}"
