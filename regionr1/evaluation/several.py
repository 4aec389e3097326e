"""Runs that differ in their seed only, put together: what holds for new seeds and new entities.

A mean over seeds is unsure twice: other seeds would train other policies, and other entities would
be asked about. The two are independent, so their variances add up: that of the mean over seeds, and
that of the bootstrap over entities of the seeds' mean. The degrees of freedom are Satterthwaite's,
so that two seeds give a wide interval and one seed says nothing of others: its interval is that of
the entities alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from regionr1.evaluation.bootstrap import FloatArray, Interval, divide, ratio_draws
from regionr1.evaluation.table import METRICS, MethodRow, Outcome, by_method, ratio_arrays

OutcomesOfSeeds = Sequence[Sequence[Outcome]]


class Estimate(NamedTuple):
    """A mean with how unsure it is.

    Attributes:
        value: The mean; None where it is undefined.
        error: Its standard error.
        freedom: Degrees of freedom of the error; infinite where no seeds are compared.
    """

    value: float | None
    error: float
    freedom: float

    def interval(self) -> Interval:
        """The value with its 95% interval."""
        if self.value is None:
            return Interval(None, None, None)
        half = float(student.ppf(0.975, self.freedom)) * self.error
        return Interval(self.value, self.value - half, self.value + half)

    def p_value(self) -> float | None:
        """The two-sided chance of a value as far from 0, if 0 were the truth."""
        if self.value is None:
            return None
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * student.sf(abs(self.value) / self.error, self.freedom))


class _Measured(NamedTuple):
    """(S, M) values by seed and metric, and (R, M) bootstrap draws of their mean."""

    values: FloatArray
    draws: FloatArray


def seed_rows(runs: OutcomesOfSeeds, resamples: int = 1000) -> list[MethodRow]:
    """The test table of several seeds: each method that all were tested with, on shared queries.

    Args:
        runs: The outcomes of each seed's run, all methods.
        resamples: Bootstrap draws.
    """
    methods = [by_method(run) for run in runs]
    shared = [name for name in methods[0] if all(name in run for run in methods)]
    total = {key for run in methods for rows in run.values() for key in rows}
    table = []
    for name in shared:
        rows = [run[name] for run in methods]
        keys = _shared_keys(rows)
        estimates = _estimates(_measure(rows, keys, resamples))
        table.append(
            MethodRow(
                method=name,
                n=len(keys),
                n_skipped=len(total) - len(keys),
                n_pool_positive=sum(rows[0][key].pool_has_positive for key in keys),
                metrics={name: _share(value.interval()) for name, value in estimates.items()},
            )
        )
    return table


def seed_gain(
    runs: OutcomesOfSeeds, method: str, baseline: str, resamples: int = 1000
) -> dict[str, Estimate]:
    """One method minus another within each run, over the seeds, by key of METRICS.

    Args:
        runs: The outcomes of each seed's run; all have both methods.
        method: The one of interest.
        baseline: The one to compare with.
        resamples: Bootstrap draws.
    """
    ours, theirs = ([by_method(run)[name] for run in runs] for name in (method, baseline))
    keys = _shared_keys([*ours, *theirs])
    a, b = (_measure(rows, keys, resamples) for rows in (ours, theirs))
    return _estimates(_Measured(a.values - b.values, a.draws - b.draws))


def setting_difference(
    ours: OutcomesOfSeeds, theirs: OutcomesOfSeeds, method: str, resamples: int = 1000
) -> dict[str, Estimate]:
    """One method under one setting minus the same under another, by key of METRICS.

    Entities are paired, seeds are not: seed 0 of one setting has no more to do with seed 0 of
    another than with its seed 1.

    Args:
        ours: The outcomes of each run of the setting of interest.
        theirs: Those of the setting to compare with.
        method: A row of the test table that all have.
        resamples: Bootstrap draws.
    """
    a_rows, b_rows = ([by_method(run)[method] for run in runs] for runs in (ours, theirs))
    keys = _shared_keys([*a_rows, *b_rows])
    a, b = (_measure(rows, keys, resamples) for rows in (a_rows, b_rows))
    values = a.values.mean(0) - b.values.mean(0)
    of_seeds = [(_seed_variance(x.values), len(x.values) - 1) for x in (a, b)]
    return {
        name: _estimate(
            values[i], (a.draws - b.draws)[:, i], [(var[i], df) for var, df in of_seeds]
        )
        for i, name in enumerate(METRICS)
    }


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for how many there are (Holm): the chance that any of them is luck.

    Args:
        p_values: Of a family of comparisons; None is undefined, and not counted.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for place, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - place)))
        found[i] = highest
    return found


def _share(interval: Interval) -> Interval:
    """An interval of a share, which cannot reach beyond 0 and 1."""
    value, low, high = interval
    if low is None or high is None:
        return interval
    return Interval(value, max(low, 0.0), min(high, 1.0))


def _shared_keys(rows: Sequence[dict[str, Outcome]]) -> list[str]:
    return [key for key in rows[0] if all(key in other for other in rows[1:])]


def _measure(rows: Sequence[dict[str, Outcome]], keys: Sequence[str], resamples: int) -> _Measured:
    names = sorted({rows[0][key].cluster for key in keys})
    place = {name: i for i, name in enumerate(names)}
    index = [place[rows[0][key].cluster] for key in keys]
    values, draws = [], []
    for of_seed in rows:
        arrays = ratio_arrays([of_seed[key] for key in keys])
        values.append(divide(arrays[0].sum(0), arrays[1].sum(0)))
        # The same seed of the bootstrap: the same entities are drawn for every run and method.
        draws.append(ratio_draws(*arrays, index, len(names), resamples, seed=0))
    return _Measured(np.stack(values), np.mean(draws, axis=0))


def _seed_variance(values: FloatArray) -> FloatArray:
    """(M,) variance of the mean over seeds; 0 where a single seed cannot tell."""
    n_seeds, n_metrics = values.shape
    return values.var(0, ddof=1) / n_seeds if n_seeds > 1 else np.zeros(n_metrics)


def _estimates(found: _Measured) -> dict[str, Estimate]:
    variance, freedom = _seed_variance(found.values), len(found.values) - 1
    means = found.values.mean(0)
    return {
        name: _estimate(means[i], found.draws[:, i], [(variance[i], freedom)])
        for i, name in enumerate(METRICS)
    }


def _estimate(value: float, draws: FloatArray, of_seeds: Sequence[tuple[float, int]]) -> Estimate:
    seen = draws[np.isfinite(draws)]
    if not math.isfinite(value) or not len(seen):
        return Estimate(None, 0.0, math.inf)
    variance = float(seen.var()) + sum(var for var, _ in of_seeds)
    squares = sum(var**2 / df for var, df in of_seeds if df > 0)
    return Estimate(
        float(value), math.sqrt(variance), float(variance**2 / squares) if squares else math.inf
    )
