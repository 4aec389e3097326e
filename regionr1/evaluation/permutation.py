"""The chance of a difference as large as the one seen, if two methods were the same."""

from collections.abc import Iterable

import numpy as np

from regionr1.evaluation.bootstrap import divide
from regionr1.evaluation.table import METRICS, Outcome, paired_ratios

DRAWS_PER_CHUNK = 100  # keeps the (draws, clusters) table small


def permutation_p_values(
    outcomes: Iterable[Outcome],
    method: str,
    baseline: str,
    permutations: int = 2000,
    seed: int = 0,
) -> dict[str, float | None]:
    """Two-sided p-values of a paired permutation test, by key of METRICS.

    If the methods were the same, their names could be exchanged: they are, entity by entity, all
    queries of one together, because these are not independent of each other.

    Args:
        outcomes: Outcomes that hold both methods.
        method: The one of interest.
        baseline: The one to compare with.
        permutations: Random exchanges; with the one seen counted in, the smallest p-value is
            1 / (permutations + 1).
        seed: Seed of the exchanges.

    Returns:
        None where the difference is undefined.

    Raises:
        ValueError: If the two share no query.
    """
    pairs = paired_ratios(outcomes, method, baseline)
    totals = np.zeros((2, 2, pairs.n_clusters, len(METRICS)))  # whose, numerator or denominator
    for whose, arrays in enumerate((pairs.ours, pairs.theirs)):
        for which, values in enumerate(arrays):
            np.add.at(totals[whose, which], pairs.cluster_of, values)
    sums = totals.sum(2)
    seen = np.abs(divide(*sums[0]) - divide(*sums[1]))
    rng = np.random.default_rng(seed)
    as_large = np.ones(len(METRICS))
    change = totals[1] - totals[0]  # of ours, where the names are exchanged
    for start in range(0, permutations, DRAWS_PER_CHUNK):
        size = min(DRAWS_PER_CHUNK, permutations - start)
        exchanged = rng.integers(0, 2, (size, pairs.n_clusters)).astype(float)
        moved = [exchanged @ part for part in change]
        ours = divide(sums[0, 0] + moved[0], sums[0, 1] + moved[1])
        theirs = divide(sums[1, 0] - moved[0], sums[1, 1] - moved[1])
        # Sums in another order differ in their last digits; what is equal must count as equal.
        as_large += (np.abs(ours - theirs) >= seen - 1e-12).sum(0)
    return {
        name: None if np.isnan(value) else float(count / (permutations + 1))
        for name, value, count in zip(METRICS, seen, as_large, strict=True)
    }
