"""How good the policy's decision is, whatever its boxes are worth.

Every query is ranked by the full image and by the policy's own crop, which it is forced to make. A
good P(REGION) is high where the crop ranks a positive higher and low where the full image does;
where both rank it alike there is nothing to decide, so these ties are left out and counted. Queries
whose pool holds no positive cannot be decided either and are not counted at all.

P(REGION) is 1 - P(FULL): whatever does not begin as FULL.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionr1.evaluation.bootstrap import (
    FloatArray,
    Interval,
    cluster_counts,
    divide,
    intervals,
)
from regionr1.evaluation.markdown import interval_cell, markdown_table
from regionr1.evaluation.table import Outcome, by_method

DECIDERS = {"warm_start": "warm_start_region", "policy": "policy_region"}
"""Each policy that decides, and the row of its forced crops."""
BINS = 10  # of equal width, for the calibration error


@dataclass(frozen=True)
class Case:
    """One query that has something to find.

    Attributes:
        key: Key of the query.
        cluster: Entity that it is about.
        p_region: P(REGION) of the policy.
        full: 1 / rank of the first positive by the full image.
        crop: The same by the forced crop; 0 where the forced answer was INVALID.
        chosen: The same by what the policy chose; 0 where that was INVALID.
        cropped: Whether the policy chose a crop.
        groups: Parts of the split that the query belongs to.
    """

    key: str
    cluster: str
    p_region: float
    full: float
    crop: float
    chosen: float
    cropped: bool
    groups: Mapping[str, str]


@dataclass(frozen=True)
class DecisionQuality:
    """The quality of one policy's decision on one part of a split.

    Attributes:
        name: The policy, after the part of the split if it is one.
        n: Queries whose pool holds a positive.
        n_ties: Those that full image and crop rank alike.
        crop_better: Share of the crop among the decided queries: what AUPRC is without any skill.
        auroc: Chance that P(REGION) is higher on a query that the crop ranks better than on one
            that the full image ranks better.
        auprc: Area under precision and recall of finding the queries that the crop ranks better.
        regret_recall_at_1: How far Recall@1 among the n queries lies below the better of full image
            and crop per query.
        regret_mrr: The same in MRR.
        ece: Expected calibration error of P(REGION) as the chance that the crop ranks better.
        brier: Mean squared error of P(REGION) as that chance.
        aurc: Area under risk and coverage: mean share of wrong decisions over all numbers of the
            surest ones, where equally sure ones come together and count as many as they are.
        crop_rate: Share of all n queries that the policy crops.
        crop_rate_crop_better: The same among queries that the crop ranks better.
        crop_rate_full_better: The same among queries that the full image ranks better.
    """

    name: str
    n: int
    n_ties: int
    crop_better: float | None
    auroc: Interval
    auprc: float | None
    regret_recall_at_1: Interval
    regret_mrr: Interval
    ece: float | None
    brier: float | None
    aurc: float | None
    crop_rate: float | None
    crop_rate_crop_better: float | None
    crop_rate_full_better: float | None


HEADS = {
    "n": "N",
    "n_ties": "ties",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "crop_better": "crop better",
    "regret_recall_at_1": "regret R@1",
    "regret_mrr": "regret MRR",
    "ece": "ECE",
    "brier": "Brier",
    "aurc": "AURC",
    "crop_rate": "crops",
    "crop_rate_crop_better": "where crop better",
    "crop_rate_full_better": "where full better",
}  # attribute: heading


def decision_cases(outcomes: Iterable[Outcome], policy: str) -> list[Case]:
    """The queries to decide, empty where the policy or its forced crops were not tested.

    Args:
        outcomes: Outcomes of all methods.
        policy: A key of DECIDERS.
    """
    methods = by_method(outcomes)
    full, crop = methods.get("full", {}), methods.get(DECIDERS[policy], {})
    return [
        Case(
            key=key,
            cluster=chosen.cluster,
            p_region=1 - chosen.p_full,
            full=full[key].reciprocal_rank,
            crop=crop[key].reciprocal_rank,
            chosen=chosen.reciprocal_rank,
            cropped=chosen.decision == "REGION",
            groups=chosen.groups,
        )
        for key, chosen in methods.get(policy, {}).items()
        if chosen.pool_has_positive and chosen.p_full is not None and key in full and key in crop
    ]


def decision_quality(name: str, cases: Sequence[Case], resamples: int = 1000) -> DecisionQuality:
    """Measures the decisions of one policy.

    Args:
        name: How the row is called.
        cases: Its queries, at least one.
        resamples: Bootstrap draws of the intervals, clustered by entity; 0 for none.
    """
    from sklearn.metrics import average_precision_score

    p, full, crop, chosen, cropped = (
        np.array([getattr(case, field) for case in cases], dtype=float)
        for field in ("p_region", "full", "crop", "chosen", "cropped")
    )
    decided = full != crop
    better = crop > full
    best = np.maximum(full, crop)
    regrets = np.stack([(best == 1).astype(float) - (chosen == 1), best - chosen], axis=1)
    target, p_decided = better[decided], p[decided]
    calibrated = target.size > 0
    draws = [np.zeros((0, 3))]
    for weights in _query_counts(cases, resamples):
        queries = weights.sum(1, keepdims=True).repeat(2, axis=1)
        drawn = weighted_auroc(target, p_decided, weights[:, decided])
        draws.append(np.column_stack([divide(weights @ regrets, queries), drawn]))
    area = auroc(target, p_decided)
    regret_recall, regret_mrr, told = _with_intervals(
        [*regrets.mean(0), area], np.concatenate(draws)
    )
    return DecisionQuality(
        name=name,
        n=len(cases),
        n_ties=int((~decided).sum()),
        crop_better=float(target.mean()) if calibrated else None,
        auroc=told,
        auprc=None if math.isnan(area) else float(average_precision_score(target, p_decided)),
        regret_recall_at_1=regret_recall,
        regret_mrr=regret_mrr,
        ece=_calibration_error(target, p_decided) if calibrated else None,
        brier=float(np.mean((p_decided - target) ** 2)) if calibrated else None,
        aurc=_area_under(risk_coverage(cases)),
        crop_rate=_mean(cropped),
        crop_rate_crop_better=_mean(cropped[better]),
        crop_rate_full_better=_mean(cropped[decided & ~better]),
    )


def decision_rows(outcomes: Iterable[Outcome]) -> list[DecisionQuality]:
    """Makes the rows for each policy that was tested with forced crops.

    The trained policy has rows for every part of the split too; a part that all queries share is
    none.
    """
    found = list(outcomes)
    rows = []
    for policy in DECIDERS:
        if cases := decision_cases(found, policy):
            rows.append(decision_quality(policy, cases))
    parts: dict[str, dict[str, list[Case]]] = {}
    for case in decision_cases(found, "policy"):
        for group, value in case.groups.items():
            parts.setdefault(group, {}).setdefault(value, []).append(case)
    for group, by_value in sorted(parts.items()):
        for value, cases in sorted(by_value.items() if len(by_value) > 1 else ()):
            rows.append(decision_quality(f"{group} {value}: policy", cases, resamples=0))
    return rows


def risk_coverage(cases: Iterable[Case]) -> list[tuple[float, float]]:
    """(coverage, risk) from the surest decision to all of them, ties left out.

    A decision is surer the further P(REGION) is from 1/2. Its risk is the share that went to the
    view which ranks worse. Equally sure decisions are one point.
    """
    sure: dict[float, list[bool]] = {}
    for case in cases:
        if case.full != case.crop:
            wrong = (case.p_region > 0.5) != (case.crop > case.full)
            sure.setdefault(abs(case.p_region - 0.5), []).append(wrong)
    total = sum(map(len, sure.values()))
    seen = wrongs = 0
    curve = []
    for confidence in sorted(sure, reverse=True):
        seen += len(sure[confidence])
        wrongs += sum(sure[confidence])
        curve.append((seen / total, wrongs / seen))
    return curve


def decision_table(rows: Sequence[DecisionQuality], shown: Iterable[str] = tuple(HEADS)) -> str:
    """The rows as a Markdown table with a column for each of HEADS that is shown."""
    names = list(shown)
    lines = [[row.name, *(_cell(getattr(row, name)) for name in names)] for row in rows]
    return markdown_table(["decision", *(HEADS[name] for name in names)], lines)


def decision_record(row: DecisionQuality) -> dict[str, Any]:
    """A row for JSON; intervals are {value, low, high}."""
    record = asdict(row)
    return {k: v._asdict() if isinstance(v, Interval) else v for k, v in record.items()}


def decision_values(row: DecisionQuality) -> dict[str, float]:
    """The defined numbers of a row by name, without intervals."""
    values = {name: getattr(row, name) for name in HEADS}
    plain = {k: v.value if isinstance(v, Interval) else v for k, v in values.items()}
    return {k: float(v) for k, v in plain.items() if v is not None}


def auroc(target: NDArray[np.bool_], p: FloatArray) -> float:
    """Area under the ROC curve, ties counting half; NaN where only one of two kinds occurs.

    Args:
        target: (N,) what is to be told apart.
        p: (N,) what tells it.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(target, p)) if 0 < target.sum() < target.size else math.nan


def weighted_auroc(target: NDArray[np.bool_], p: FloatArray, weights: FloatArray) -> FloatArray:
    """(R,) AUROC under each of R weightings of the same queries, NaN where a kind has no weight.

    Args:
        target: (N,) what is to be told apart.
        p: (N,) what tells it.
        weights: (R, N) weights of the queries.
    """
    if not target.size:
        return np.full(len(weights), math.nan)
    order = np.argsort(p)
    starts = np.append(0, np.flatnonzero(np.diff(p[order])) + 1)  # equal values stand together
    positive, negative = (
        np.add.reduceat((weights * kind)[:, order], starts, axis=1) for kind in (target, ~target)
    )
    below = np.cumsum(negative, axis=1) - negative / 2  # half of those that are equal
    return divide((positive * below).sum(1), positive.sum(1) * negative.sum(1))


def _query_counts(cases: Sequence[Case], resamples: int) -> Iterator[FloatArray]:
    """Yields (r, N) how often each query is drawn when whole entities are."""
    names = {name: i for i, name in enumerate(sorted({case.cluster for case in cases}))}
    index = [names[case.cluster] for case in cases]
    for counts in cluster_counts(len(names), resamples, seed=0):
        yield counts[:, index]


def _with_intervals(values: Sequence[float], draws: FloatArray) -> list[Interval]:
    if len(draws):
        return intervals(np.array(values), draws)
    return [Interval(None if math.isnan(value) else float(value), None, None) for value in values]


def _calibration_error(target: NDArray[np.bool_], p: FloatArray) -> float:
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    gaps = [abs(float((p - target)[bins == b].sum())) for b in np.unique(bins)]
    return sum(gaps) / len(p)


def _area_under(curve: Sequence[tuple[float, float]]) -> float | None:
    """Area under (coverage, risk), each risk as wide as the coverage that it adds."""
    widths = np.diff([0.0, *(coverage for coverage, _ in curve)])
    return float(widths @ [risk for _, risk in curve]) if curve else None


def _mean(values: Sequence[float] | FloatArray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _cell(value: Interval | float | int | None) -> str:
    if isinstance(value, Interval):
        return interval_cell(value)
    if isinstance(value, int):
        return str(value)
    return interval_cell(Interval(value, None, None))
