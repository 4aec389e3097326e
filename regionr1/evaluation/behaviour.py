"""What a tested policy did, summed up for one run: its decisions by kind of query, and its gains.

`decision_quality` measures decisions; this adds what tells a decision from a keyword or a switch:
how it does within one wording, and how often it crops what wants a crop and what wants the whole.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.decision_quality import Case, auroc, decision_cases, decision_quality
from regionr1.evaluation.table import Outcome, by_method, paired_difference

WHOLE = (0.0, 0.0, 1.0, 1.0)


class Behaviour(TypedDict):
    """What a tested policy decided.

    Attributes:
        auroc: Of P(REGION) against "the crop ranks better"; None where only one of the two occurs.
        wording_auroc: The same within one wording; see `wording_auroc`.
        regret: R@1 lost to the better of full image and crop.
        of_better: CondR@1 as a share of the per-query better of the two; None where that is 0.
        crop_rates: See `crop_rates`.
        above: Paired gains in CondR@1: of the policy over `full` and over `warm_start_region`, and
            of its `boxes` over the untrained ones, always cropped, where a crop is wanted.
    """

    auroc: float | None
    wording_auroc: float | None
    regret: float
    of_better: float | None
    crop_rates: dict[str, float]
    above: dict[str, Interval]


def behaviour(outcomes: Sequence[Outcome], questions: Mapping[str, str]) -> Behaviour:
    """Sums up a test in which at least one pool held a positive.

    Args:
        outcomes: Of all methods.
        questions: Wording by key of the query.
    """
    cases = decision_cases(outcomes, "policy")
    quality = decision_quality("policy", cases, resamples=0)
    right = sum(case.chosen == 1 for case in cases)
    either = sum(max(case.full, case.crop) == 1 for case in cases)
    wanted = wants_crop(outcomes)
    above = {
        other: paired_difference(outcomes, "policy", other)["cond_recall_at_1"]
        for other in ("full", "warm_start_region")
    }
    cropped = [outcome for outcome in outcomes if wanted.get(outcome.key)]
    if cropped:
        boxes = paired_difference(cropped, "policy_region", "warm_start_region")
        above["boxes"] = boxes["cond_recall_at_1"]
    return {
        "auroc": quality.auroc.value,
        "wording_auroc": wording_auroc(cases, questions),
        "regret": quality.regret_recall_at_1.value or 0.0,
        "of_better": right / either if either else None,
        "crop_rates": crop_rates(cases, wanted),
        "above": above,
    }


def wants_crop(outcomes: Sequence[Outcome]) -> dict[str, bool]:
    """Whether the reference view of a query is a crop, by key; only those that have one."""
    boxes = {key: o.box_unit for key, o in by_method(outcomes).get("reference", {}).items()}
    return {key: tuple(box) != WHOLE for key, box in boxes.items() if box is not None}


def wording_auroc(cases: Sequence[Case], questions: Mapping[str, str]) -> float | None:
    """AUROC within one wording: the mean over wordings, each as often as it has pairs.

    What a keyword tells is worth nothing here. None where no wording has queries of both sorts.

    Args:
        cases: Queries; those that full image and crop rank alike are left out.
        questions: Wording by key of the query.
    """
    by_wording: dict[str, list[Case]] = {}
    for case in cases:
        if case.full != case.crop:
            by_wording.setdefault(questions.get(case.key, ""), []).append(case)
    values, weights = [], []
    for told in by_wording.values():
        better = np.array([case.crop > case.full for case in told])
        if 0 < better.sum() < len(told):
            values.append(auroc(better, np.array([case.p_region for case in told])))
            weights.append(better.sum() * (~better).sum())
    return float(np.average(values, weights=weights)) if values else None


def crop_rates(cases: Sequence[Case], wanted: Mapping[str, bool]) -> dict[str, float]:
    """Share of REGION by subset, and over queries that want a crop or the full image.

    What a query wants is told twice: by its reference view, and by which of the two ranks better.

    Args:
        cases: Queries.
        wanted: What `wants_crop` found.
    """
    kinds = sorted({case.groups.get("subset", "") for case in cases})
    parts = {kind: [c for c in cases if c.groups.get("subset", "") == kind] for kind in kinds}
    parts["wants crop"] = [case for case in cases if wanted.get(case.key) is True]
    parts["wants full"] = [case for case in cases if wanted.get(case.key) is False]
    parts["crop better"] = [case for case in cases if case.crop > case.full]
    parts["full better"] = [case for case in cases if case.crop < case.full]
    return {name: float(np.mean([c.cropped for c in own])) for name, own in parts.items() if own}
