"""Cropping where P(REGION) is above a threshold that another split gives, whatever was chosen."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from regionr1.evaluation.table import Outcome, by_method


class Threshold(NamedTuple):
    """A threshold on P(REGION).

    Attributes:
        value: A query is cropped where P(REGION) is above it.
        n: Queries that it was fitted on.
    """

    value: float
    n: int


def fit_threshold(outcomes: Iterable[Outcome]) -> Threshold | None:
    """The threshold on P(REGION) above which cropping gives the best Recall@1.

    Of equally good ones that with the best MRR is taken, and of those the one nearest to 1/2. It
    lies half-way between two values that occurred, or is 0 (crop always) or 1 (never).

    Args:
        outcomes: The rows `full` and `policy_region` of a split other than the one it is used on.

    Returns:
        None where no pool holds a positive.
    """
    methods = by_method(outcomes)
    full = methods.get("full", {})
    points = sorted(
        (1 - crop.p_full, full[key].reciprocal_rank, crop.reciprocal_rank)
        for key, crop in methods.get("policy_region", {}).items()
        if crop.p_full is not None and crop.pool_has_positive and key in full
    )
    if not points:
        return None
    p, whole, crop = np.array(points).T
    # What is gained by cropping none but the queries from i on, in hits and in 1 / rank
    hits, reciprocals = (
        np.append(np.cumsum(gain[::-1])[::-1], 0.0)
        for gain in ((crop == 1).astype(float) - (whole == 1), crop - whole)
    )
    places = [0, *(np.flatnonzero(np.diff(p)) + 1), len(p)]
    thresholds = [0.0, *((p[i - 1] + p[i]) / 2 for i in places[1:-1]), 1.0]
    best = max(
        (hits[i], round(reciprocals[i], 9), -abs(threshold - 0.5), threshold)
        for i, threshold in zip(places, thresholds, strict=True)
    )
    return Threshold(float(best[-1]), len(points))


def threshold_outcomes(outcomes: Iterable[Outcome], threshold: float) -> list[Outcome]:
    """Makes the row `policy_threshold` out of forced crops and full images.

    It is the forced crop where P(REGION) is above the threshold, else the full image.

    Args:
        outcomes: Outcomes of all methods; P(REGION) is that of `policy_region`.
        threshold: What `fit_threshold` found on another split.
    """
    methods = by_method(outcomes)
    full = methods.get("full", {})
    return [
        replace(
            crop if 1 - crop.p_full > threshold else full[key],
            method="policy_threshold",
            p_full=crop.p_full,
        )
        for key, crop in methods.get("policy_region", {}).items()
        if crop.p_full is not None and key in full
    ]
