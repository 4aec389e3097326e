"""Checks that the tables of one test agree: all of them come from the same rows."""

from collections.abc import Sequence

from regionr1.evaluation.by_rank import BANDS, by_full_rank
from regionr1.evaluation.table import METRICS, Outcome, by_method, metrics_table

_TOLERANCE = 1e-9


def contradictions(outcomes: Sequence[Outcome]) -> list[str]:
    """What does not agree, a sentence each; empty where all does.

    A recall grows with K; R@K of hits in pools is CondR@K times the share of pools that hold a
    positive; a query that keeps its full image keeps its rank; nothing changes without a crop or an
    invalid answer; and the bands of table 4 add up to the CondR@1 of table 2.
    """
    found = []
    for row in metrics_table(outcomes, resamples=1):
        value = {name: row.metrics[name].value or 0.0 for name in METRICS}
        recalls = [value[f"recall_at_{k}"] for k in (1, 5, 10, 20)]
        if recalls != sorted(recalls):
            found.append(f"{row.method}: R@K falls as K grows.")
        share = row.n_pool_positive / row.n
        for k in (1, 5, 10):
            product = value[f"cond_recall_at_{k}"] * share
            if abs(product - value[f"recall_at_{k}"]) > _TOLERANCE:
                found.append(f"{row.method}: R@{k} is not CondR@{k} times the pools' recall.")
    methods = by_method(outcomes)
    full = methods.get("full", {})
    for name in ("warm_start", "policy"):
        changed = sum(
            chosen.decision == "FULL" and key in full and chosen.rank != full[key].rank
            for key, chosen in methods.get(name, {}).items()
        )
        if changed:
            found.append(f"{name}: {changed} queries kept the full image and another rank.")
    found += _bands(outcomes)
    return found


def _bands(outcomes: Sequence[Outcome]) -> list[str]:
    found = []
    bands = by_full_rank(outcomes)
    conditional = {
        row.method: row.metrics["cond_recall_at_1"].value
        for row in metrics_table(outcomes, resamples=1)
    }
    for band in bands:
        if band.helped + band.hurt > band.crops + band.invalid + _TOLERANCE:
            found.append(f"{band.policy}, rank {band.ranks}: more changed than was cropped.")
    for policy in dict.fromkeys(band.policy for band in bands):
        halves = [b for b in bands if b.policy == policy and b.ranks in tuple(BANDS)[:2]]
        total = sum(b.first * b.n for b in halves) / sum(b.n for b in halves)
        if abs(total - (conditional[policy] or 0.0)) > _TOLERANCE:
            found.append(f"{policy}: the bands by rank do not add up to its CondR@1.")
    return found
