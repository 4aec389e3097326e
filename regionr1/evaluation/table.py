"""The test table: one row per method, every number with its 95% interval.

Recall is of entities, after removing duplicates from the ranking (EchoSight's rule), over all
queries, pool positive or not; CondR@K, K = 1, 5, 10, divides by the queries whose pool holds a
positive (Region-R1, arXiv 2604.05268, Eq. 10). MRR and NDCG are of candidates as listed, as in the
release of Region-R1. An INVALID answer is a miss in all of them: it is never scored as the full
image.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from regionr1.evaluation.bootstrap import FloatArray, Interval, divide, intervals, ratio_draws

RECALLS = (1, 5, 10, 20)
GROUPED = (
    *("full", "warm_start", "warm_start_region", "policy", "policy_region", "better_of"),
    "reference",
)  # rows told for every part of the split
METRICS: dict[str, str] = {
    **{f"recall_at_{k}": f"R@{k}" for k in RECALLS},
    "cond_recall_at_1": "CondR@1",
    "cond_recall_at_5": "CondR@5",
    "cond_recall_at_10": "CondR@10",
    "mrr": "MRR",
    "cond_mrr": "CondMRR",
    "ndcg": "NDCG",
    "region_rate": "REGION",
    "invalid_rate": "INVALID",
    "p_full": "P(FULL)",
    "iou": "IoU",
}  # key in files and in MLflow: heading in a table


@dataclass
class Outcome:
    """What one method did with one query.

    Attributes:
        key: Key of the query, unique in the test split.
        cluster: Entity that the query is about; the unit of resampling.
        method: Name of the method, a row of the table.
        ranking: Entity ids, best first; None when the answer was INVALID.
        gold_ids: Entity ids that count as a hit.
        pool_has_positive: Whether the candidate pool holds a positive at all.
        rank: 1-based rank of the first positive candidate, inf when there is none.
        ndcg: NDCG over all candidates of the query, 0 to 1.
        decision: "FULL", "REGION" or "INVALID".
        box_unit: The crop in the unit square, xyxy; None when there is none.
        iou: Overlap of the crop with the reference box; None when one of the two is missing.
        groups: Parts of the split that the query belongs to, such as {"type": "automatic"}.
        p_full: Exact probability of FULL at temperature 1 of the policy that chose, whatever it was
            forced to; None where no policy chose.
        margin: Highest score of a positive minus the highest of a negative; None where the pool
            lacks one of the two, or the answer was INVALID.
        data_id: What result files of others call the query; None where they do not, or the run was
            tested before this was kept.
    """

    key: str
    cluster: str
    method: str
    ranking: list[str] | None
    gold_ids: Sequence[str]
    pool_has_positive: bool
    rank: float
    ndcg: float
    decision: str
    box_unit: tuple[float, float, float, float] | None = None
    iou: float | None = None
    groups: dict[str, str] = field(default_factory=dict)
    p_full: float | None = None
    margin: float | None = None
    data_id: str | None = None

    @property
    def reciprocal_rank(self) -> float:
        """1 / rank of the first positive; 0 where there is none, or the answer was INVALID."""
        return 1.0 / self.rank if self.ranking is not None and math.isfinite(self.rank) else 0.0


@dataclass
class MethodRow:
    """One row: the queries it covers and each metric with its interval.

    Attributes:
        method: Name of the method.
        n: Queries scored.
        n_skipped: Queries of the test split that this method could not be applied to (no reference
            box, say).
        n_pool_positive: Queries scored whose pool holds a positive: the denominator of the
            conditional metrics.
        metrics: Interval by key of METRICS.
    """

    method: str
    n: int
    n_skipped: int
    n_pool_positive: int
    metrics: dict[str, Interval] = field(default_factory=dict)


def ratios(outcome: Outcome) -> tuple[list[float], list[float]]:
    """Numerators and denominators of one outcome, in the order of METRICS."""
    invalid = outcome.ranking is None
    # A rank may repeat an entity that has several pictures: the first occurrence counts.
    ranking = [] if outcome.ranking is None else list(dict.fromkeys(outcome.ranking))
    gold = set(outcome.gold_ids)
    hits = {k: float(any(entity in gold for entity in ranking[:k])) for k in RECALLS}
    positive = float(outcome.pool_has_positive)
    reciprocal = outcome.reciprocal_rank
    numerators = {
        **{f"recall_at_{k}": hits[k] for k in RECALLS},
        "cond_recall_at_1": hits[1] * positive,
        "cond_recall_at_5": hits[5] * positive,
        "cond_recall_at_10": hits[10] * positive,
        "mrr": reciprocal,
        "cond_mrr": reciprocal * positive,
        "ndcg": 0.0 if invalid else outcome.ndcg,
        "region_rate": float(outcome.decision == "REGION"),
        "invalid_rate": float(invalid),
        "p_full": 0.0 if outcome.p_full is None else outcome.p_full,
        "iou": 0.0 if outcome.iou is None else outcome.iou,
    }
    denominators = {
        **{name: positive if name.startswith("cond_") else 1.0 for name in METRICS},
        "p_full": float(outcome.p_full is not None),
        "iou": float(outcome.iou is not None),
    }
    return [numerators[name] for name in METRICS], [denominators[name] for name in METRICS]


def by_method(outcomes: Iterable[Outcome]) -> dict[str, dict[str, Outcome]]:
    """{method: {key: outcome}} in the order of first appearance.

    Raises:
        ValueError: If a method answered the same query twice, or an outcome contradicts itself.
    """
    methods: dict[str, dict[str, Outcome]] = {}
    for outcome in outcomes:
        if (outcome.ranking is None) != (outcome.decision == "INVALID"):
            raise ValueError(
                f"{outcome.method} on {outcome.key}: INVALID and no ranking must go together"
            )
        rows = methods.setdefault(outcome.method, {})
        if outcome.key in rows:
            raise ValueError(f"{outcome.method} answered {outcome.key} twice")
        rows[outcome.key] = outcome
    return methods


def ratio_arrays(outcomes: Sequence[Outcome]) -> tuple[FloatArray, FloatArray]:
    """(N, M) numerators and (N, M) denominators."""
    pairs = np.array([ratios(outcome) for outcome in outcomes], dtype=float)
    return pairs[:, 0], pairs[:, 1]


def metrics_table(
    outcomes: Iterable[Outcome], n_total: int | None = None, resamples: int = 1000, seed: int = 0
) -> list[MethodRow]:
    """The rows of the test table.

    Args:
        outcomes: All outcomes of all methods.
        n_total: Queries in the split. None means every query that at least one method was applied
            to.
        resamples: Bootstrap draws.
        seed: Seed of the draws; the same clusters are drawn for all methods.

    Returns:
        One row per method, in the order of first appearance.
    """
    methods = by_method(outcomes)
    keys = {key for rows in methods.values() for key in rows}
    clusters = {
        name: i
        for i, name in enumerate(sorted({o.cluster for r in methods.values() for o in r.values()}))
    }
    table = []
    for method, rows in methods.items():
        numerators, denominators = ratio_arrays(list(rows.values()))
        index = [clusters[outcome.cluster] for outcome in rows.values()]
        draws = ratio_draws(numerators, denominators, index, len(clusters), resamples, seed)
        values = divide(numerators.sum(0), denominators.sum(0))
        table.append(
            MethodRow(
                method=method,
                n=len(rows),
                n_skipped=(len(keys) if n_total is None else n_total) - len(rows),
                n_pool_positive=sum(outcome.pool_has_positive for outcome in rows.values()),
                metrics=dict(zip(METRICS, intervals(values, draws), strict=True)),
            )
        )
    return table


def grouped_table(outcomes: Iterable[Outcome]) -> list[MethodRow]:
    """The rows GROUPED of the test table for every part of the split.

    Args:
        outcomes: All outcomes of all methods.

    Returns:
        Rows whose method reads `type automatic: policy`, in alphabetical order of the parts. What
        the split has only one of (a single question type, say) is no part.
    """
    parts: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        if outcome.method in GROUPED:
            for name, value in outcome.groups.items():
                parts.setdefault(name, {}).setdefault(value, []).append(outcome)
    table = []
    for name, by_value in sorted(parts.items()):
        for value, members in sorted(by_value.items() if len(by_value) > 1 else ()):
            for row in metrics_table(members):
                row.method = f"{name} {value}: {row.method}"
                table.append(row)
    return table


def paired_difference(
    outcomes: Iterable[Outcome], method: str, baseline: str, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Subtracts a baseline from a method on the queries of both, with paired 95% intervals.

    Args:
        outcomes: Outcomes that hold both methods.
        method: The one of interest.
        baseline: The one to compare with.
        resamples: Bootstrap draws.
        seed: Seed of the draws.

    Raises:
        ValueError: If the two share no query.
    """
    pairs = paired_ratios(outcomes, method, baseline)
    values, draws = [], []
    for numerators, denominators in (pairs.ours, pairs.theirs):
        values.append(divide(numerators.sum(0), denominators.sum(0)))
        draws.append(
            ratio_draws(
                numerators, denominators, pairs.cluster_of, pairs.n_clusters, resamples, seed
            )
        )
    return dict(zip(METRICS, intervals(values[0] - values[1], draws[0] - draws[1]), strict=True))


class PairedRatios(NamedTuple):
    """Two methods on the same N queries.

    Attributes:
        ours: (N, M) numerators and (N, M) denominators of the method of interest.
        theirs: The same of the other one.
        cluster_of: N numbers in [0, n_clusters), the cluster of each query.
        n_clusters: Number of clusters.
    """

    ours: tuple[FloatArray, FloatArray]
    theirs: tuple[FloatArray, FloatArray]
    cluster_of: list[int]
    n_clusters: int


def paired_ratios(outcomes: Iterable[Outcome], method: str, baseline: str) -> PairedRatios:
    """The queries that both methods were applied to.

    Raises:
        ValueError: If there is none.
    """
    methods = by_method(outcomes)
    ours, theirs = methods.get(method, {}), methods.get(baseline, {})
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise ValueError(f"{method} and {baseline} share no query, so they cannot be compared")
    clusters = {name: i for i, name in enumerate(sorted({ours[key].cluster for key in shared}))}
    return PairedRatios(
        ratio_arrays([ours[key] for key in shared]),
        ratio_arrays([theirs[key] for key in shared]),
        [clusters[ours[key].cluster] for key in shared],
        len(clusters),
    )
