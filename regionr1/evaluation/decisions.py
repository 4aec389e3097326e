"""How well a policy decides between the full image and its crop, against what each would have won.

A query counts where its pool holds a positive. Where full image and crop rank the first positive
alike there is nothing to decide: such ties count for crop rates and regret, and not for AUROC.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.table import Outcome, by_method, paired_difference

WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Decided:
    """One answerable query.

    Attributes:
        kind: Part of the split that it belongs to; empty where there are none.
        question: Its wording; empty where it is not known.
        p_region: Probability of REGION.
        cropped: Whether the greedy answer is REGION.
        rank_full: Rank of the first positive by the full image.
        rank_region: The same by the policy's crop, made whether it wants to or not.
        wants_crop: Whether the reference view is a crop, not the whole image; None without one.
    """

    kind: str
    question: str
    p_region: float
    cropped: bool
    rank_full: float
    rank_region: float
    wants_crop: bool | None = None


def decided(
    outcomes: Iterable[Outcome], questions: Mapping[str, str] = {}, policy: str = "policy"
) -> list[Decided]:
    """What a policy decided on every answerable query.

    Args:
        outcomes: Of a test, with the methods `full`, `policy` and `policy`_region.
        questions: Wording by key of the query.
        policy: Method of the greedy answer, `policy` or `warm_start`.
    """
    methods = by_method(outcomes)
    forced = f"{policy}_region"
    wanted = wants_crop(methods)
    return [
        Decided(
            kind=full.groups.get("subset", ""),
            question=questions.get(key, ""),
            p_region=1 - (methods[policy][key].p_full or 0.0),
            cropped=methods[policy][key].decision == "REGION",
            rank_full=full.rank,
            rank_region=methods[forced][key].rank,
            wants_crop=wanted.get(key),
        )
        for key, full in methods["full"].items()
        if full.pool_has_positive
    ]


def wants_crop(methods: Mapping[str, Mapping[str, Outcome]]) -> dict[str, bool]:
    """By key of the query, whether its reference view is a crop; only those that have one."""
    boxes = {key: outcome.box_unit for key, outcome in methods.get("reference", {}).items()}
    return {key: tuple(box) != WHOLE for key, box in boxes.items() if box is not None}


def auroc(scores: Sequence[float], wanted: Sequence[bool]) -> float:
    """Chance that a wanted case scores above an unwanted one, ties counting half; nan without both.

    Args:
        scores: N scores.
        wanted: N labels.
    """
    score, label = np.asarray(scores, float), np.asarray(wanted, bool)
    above, below = score[label], score[~label]
    if not len(above) or not len(below):
        return float("nan")
    order = np.sort(below)
    left, right = (np.searchsorted(order, above, side) for side in ("left", "right"))
    return float((left + right).mean() / 2 / len(below))


def decision_auroc(rows: Sequence[Decided]) -> float:
    """AUROC of P(REGION) against "the crop ranks better", ties left out."""
    told = [row for row in rows if row.rank_region != row.rank_full]
    return auroc([row.p_region for row in told], [r.rank_region < r.rank_full for r in told])


def wording_auroc(rows: Sequence[Decided]) -> float:
    """The same within one wording: the mean over wordings, each as often as it has pairs."""
    by_wording: dict[str, list[Decided]] = {}
    for row in rows:
        if row.rank_region != row.rank_full:
            by_wording.setdefault(row.question, []).append(row)
    values, weights = [], []
    for told in by_wording.values():
        better = sum(row.rank_region < row.rank_full for row in told)
        if 0 < better < len(told):
            values.append(decision_auroc(told))
            weights.append(better * (len(told) - better))
    return float(np.average(values, weights=weights)) if values else float("nan")


def regret(rows: Sequence[Decided]) -> float:
    """R@1 lost to the better of full image and crop, query by query, 0 to 1."""
    lost = [
        (min(row.rank_full, row.rank_region) == 1)
        - ((row.rank_region if row.cropped else row.rank_full) == 1)
        for row in rows
    ]
    return float(np.mean(lost))


def crop_rates(rows: Sequence[Decided]) -> dict[str, float]:
    """Share of REGION by kind, and over queries that want a crop or the full image.

    What they want is told by their reference view, and by which of the two ranks better.
    """
    parts = {kind: [r for r in rows if r.kind == kind] for kind in sorted({r.kind for r in rows})}
    parts["wants crop"] = [row for row in rows if row.wants_crop is True]
    parts["wants full"] = [row for row in rows if row.wants_crop is False]
    parts["crop better"] = [row for row in rows if row.rank_region < row.rank_full]
    parts["full better"] = [row for row in rows if row.rank_region > row.rank_full]
    return {name: float(np.mean([r.cropped for r in own])) for name, own in parts.items() if own}


class Behaviour(TypedDict):
    """What a tested policy decided.

    Attributes:
        auroc: Of P(REGION) against "the crop ranks better"; see `decision_auroc`.
        wording_auroc: The same within one wording.
        regret: R@1 lost to the better of full image and crop.
        of_better: CondR@1 as a share of the per-query better of the two.
        crop_rates: See `crop_rates`.
        above: Paired gains in CondR@1: of the policy over `full` and over `warm_start_region`, and
            of its `boxes` over the untrained ones, always cropped, where a crop is wanted.
    """

    auroc: float
    wording_auroc: float
    regret: float
    of_better: float
    crop_rates: dict[str, float]
    above: dict[str, Interval]


def behaviour(outcomes: Sequence[Outcome], questions: Mapping[str, str]) -> Behaviour:
    """Sums up a test.

    Args:
        outcomes: Of all methods.
        questions: Wording by key of the query.
    """
    rows = decided(outcomes, questions)
    right = sum((r.rank_region if r.cropped else r.rank_full) == 1 for r in rows)
    either = sum(min(r.rank_full, r.rank_region) == 1 for r in rows)
    wanted = wants_crop(by_method(outcomes))
    cropped = [outcome for outcome in outcomes if wanted.get(outcome.key)]
    above = {
        other: paired_difference(outcomes, "policy", other)["cond_recall_at_1"]
        for other in ("full", "warm_start_region")
    }
    if cropped:
        boxes = paired_difference(cropped, "policy_region", "warm_start_region")
        above["boxes"] = boxes["cond_recall_at_1"]
    return {
        "auroc": decision_auroc(rows),
        "wording_auroc": wording_auroc(rows),
        "regret": regret(rows),
        "of_better": right / either if either else float("nan"),
        "crop_rates": crop_rates(rows),
        "above": above,
    }
