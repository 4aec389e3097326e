"""Bootstrap intervals for ratios, resampled by cluster.

Questions about one entity share its pictures and its page, so they are not independent: whole
clusters are drawn with replacement, never single questions. Every metric is a ratio sum(numerator)
/ sum(denominator), so that a conditional metric such as CondR@1 is resampled as the ratio it is.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
DRAWS_PER_CHUNK = (
    100  # keeps the (draws, clusters) table small for test sets with many thousand clusters
)


class Interval(NamedTuple):
    """A value with its 95% interval; all three None where no query counts for the metric."""

    value: float | None
    low: float | None
    high: float | None


def ratio_draws(
    numerators: FloatArray,
    denominators: FloatArray,
    cluster_index: Sequence[int],
    n_clusters: int,
    resamples: int,
    seed: int,
) -> FloatArray:
    """Ratios in bootstrap resamples of the clusters.

    Args:
        numerators: (N, M) one row per query, one column per metric.
        denominators: (N, M) likewise.
        cluster_index: N numbers in [0, n_clusters), the cluster of each query.
        n_clusters: Number of clusters to draw from. Two calls with the same number, resamples and
            seed draw the same clusters, which is what makes differences between methods paired.
        resamples: Number of draws R.
        seed: Seed of the draws.

    Returns:
        (R, M) ratios; nan where a draw holds nothing in the denominator.
    """
    totals = np.zeros((2, n_clusters, numerators.shape[1]))
    np.add.at(totals[0], np.asarray(cluster_index, dtype=int), numerators)
    np.add.at(totals[1], np.asarray(cluster_index, dtype=int), denominators)
    chunks = [
        divide(counts @ totals[0], counts @ totals[1])
        for counts in cluster_counts(n_clusters, resamples, seed)
    ]
    return np.concatenate(chunks)


def cluster_counts(n_clusters: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yields (r, n_clusters) how often each cluster is drawn, a few of the R resamples at a time.

    Args:
        n_clusters: Number of clusters to draw from.
        resamples: R.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    share = np.full(n_clusters, 1 / n_clusters)
    for start in range(0, resamples, DRAWS_PER_CHUNK):
        size = min(DRAWS_PER_CHUNK, resamples - start)
        yield rng.multinomial(n_clusters, share, size=size).astype(float)


def divide(numerators: FloatArray, denominators: FloatArray) -> FloatArray:
    """Divides numerators by denominators; NaN where the denominator is 0."""
    out = np.full(numerators.shape, np.nan)
    np.divide(numerators, denominators, out=out, where=denominators > 0)
    return out


def intervals(values: FloatArray, draws: FloatArray) -> list[Interval]:
    """One interval per metric from the point values (M,) and the draws (R, M)."""
    out = []
    for value, column in zip(values, draws.T, strict=True):
        seen = column[np.isfinite(column)]
        if not np.isfinite(value) or seen.size == 0:
            out.append(Interval(None, None, None))
            continue
        low, high = np.percentile(seen, [2.5, 97.5])
        out.append(Interval(float(value), float(low), float(high)))
    return out
