"""Several runs of one recipe side by side: tables with mean and every seed, and learning curves."""

from collections.abc import Mapping, Sequence
from itertools import combinations, cycle
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Literal, TypedDict

from regionr1.evaluation.behaviour import Behaviour
from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.compare import seed_interval
from regionr1.evaluation.gain import PARTS, SHOWN, WORDS
from regionr1.evaluation.markdown import interval_cell, markdown_table, spread_cell
from regionr1.evaluation.table import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = (
    *(
        "full",
        "centre_35",
        "centre",
        "centre_70",
        "random",
        "warm_start",
        "warm_start_region",
        "policy",
        "policy_region",
    ),
    *("better_of", "reference"),
)
POLICY_METRICS = (
    *("cond_recall_at_1", "recall_at_1", "mrr", "ndcg"),
    *("region_rate", "invalid_rate", "iou"),
)
DIFFERENCE_METRICS = ("cond_recall_at_1", "recall_at_1", "mrr")
DECISION_CURVES = ("decision_auroc", "region_rate_crop_better", "region_rate_full_better")
"""Validation metrics that tell how the decision was learned, without their `val/`."""
BEHAVIOUR: dict[Literal["auroc", "wording_auroc", "regret", "of_better"], str] = {
    "auroc": 'AUROC of P(REGION) against "the crop ranks better"',
    "wording_auroc": "the same within one wording",
    "regret": "regret in R@1",
    "of_better": "CondR@1 / better of full image and own crop",
}
WANTED = ("wants crop", "wants full")
ABOVE = {
    "full": "CondR@1 above always full",
    "warm_start_region": "CondR@1 above always crop, untrained boxes",
    "boxes": "always crop, trained - untrained boxes, where a crop is wanted",
}
COLOURS = ("#d96c00", "#2a6fb0", "#3a8f4d", "#8a4fa3", "#b0283c", "#5a5a5a", "#b59a00", "#1a9e9e")


class SeedRun(TypedDict):
    """One finished run.

    Attributes:
        fit_s: Wall seconds of its training.
        curve: (training queries seen, validation CondR@1), in order.
        p_full: (training queries seen, mean P(FULL) of the next queries), in order.
        test: Test metrics by method and key of METRICS; None where undefined.
        gain: Parts of the gain over the full image by part and key of METRICS, with paired
            intervals over queries.
        behaviour: What the policy decided in the test.
        decision_curves: (training queries seen, value) on validation by name of DECISION_CURVES.
    """

    fit_s: float
    curve: Sequence[tuple[int, float]]
    p_full: Sequence[tuple[int, float]]
    test: Mapping[str, Mapping[str, float | None]]
    gain: Mapping[str, Mapping[str, Interval]]
    behaviour: Behaviour
    decision_curves: Mapping[str, Sequence[tuple[int, float]]]


Runs = Mapping[str, Mapping[int, SeedRun]]
"""Runs by variant and seed."""


def seeds_table(results: Runs) -> str:
    """Writes the tables of several seeds as Markdown.

    They are the test CondR@1 of every method, mean and by seed; what the gain is made of; the
    trained policies' metrics; and how soon they learned.

    Args:
        results: At least one variant with at least one run; tests cover the same methods.
    """
    parts = []
    for variant, runs in results.items():
        scores = {method: [_cond(run, method) for run in runs.values()] for method in METHODS}
        rows = [_row(method, values) for method, values in scores.items()]
        for base in ("full", "warm_start", "reference"):
            pairs = zip(scores["policy"], scores[base], strict=True)
            ratios = [p / b if p is not None and b else None for p, b in pairs]
            rows.append(_row(f"policy / {base}", ratios))
        heads = [f"test CondR@1, {variant}", "mean ± sd", *(f"seed {seed}" for seed in runs)]
        parts.append(markdown_table(heads, rows))
    parts += [_gain_table(variant, runs) for variant, runs in results.items()]
    parts += [_behaviour_table(variant, runs) for variant, runs in results.items()]
    rows = []
    for variant, runs in results.items():
        cells = [spread_cell([_policy(run, m) for run in runs.values()]) for m in POLICY_METRICS]
        rows.append([variant, *cells, f"{mean(run['fit_s'] for run in runs.values()):.0f} s"])
    heads = ["policy, test, mean ± sd", *(METRICS[metric] for metric in POLICY_METRICS), "fit"]
    parts += [markdown_table(heads, rows), _decisions_table(results)]
    parts += [*_differences(results), _speed_table(results)]
    return "\n\n".join(parts) + "\n"


def _gain_table(variant: str, runs: Mapping[int, SeedRun]) -> str:
    """Each part of the gain: over seeds with a t-interval, by seed with one over queries."""
    metric = SHOWN[0]
    rows = []
    for part in PARTS:
        of_seeds = [run["gain"][part][metric] for run in runs.values()]
        known = [interval.value for interval in of_seeds if interval.value is not None]
        over_seeds = interval_cell(seed_interval(known), "+.3f") if known else "-"
        rows.append([WORDS[part], over_seeds, *(interval_cell(x, "+.3f") for x in of_seeds)])
    heads = [f"{METRICS[metric]}, {variant}, paired", "over seeds, 95% t-interval"]
    seeds = [f"seed {seed}, 95% over queries by entity" for seed in runs]
    return markdown_table([*heads, *seeds], rows)


def _behaviour_table(variant: str, runs: Mapping[int, SeedRun]) -> str:
    """How well a variant decides, mean and by seed; gains with their intervals over queries."""
    of_seeds = [run["behaviour"] for run in runs.values()]
    rows = [_row(words, [found[name] for found in of_seeds]) for name, words in BEHAVIOUR.items()]
    kinds = list(dict.fromkeys(kind for found in of_seeds for kind in found["crop_rates"]))
    for kind in kinds:
        rates = [found["crop_rates"].get(kind) for found in of_seeds]
        rows.append(_row(f"crop rate, {kind or 'all'}", rates))
    for name, words in ABOVE.items():
        intervals = [f["above"][name] for f in of_seeds if name in f["above"]]
        known = [interval.value for interval in intervals if interval.value is not None]
        if known:
            over_seeds = interval_cell(seed_interval(known), "+.3f")
            rows.append([words, over_seeds, *(interval_cell(x, "+.3f") for x in intervals)])
    heads = [f"decision, test, {variant}", "mean ± sd, or 95% over seeds"]
    return markdown_table([*heads, *(f"seed {seed}" for seed in runs)], rows)


def _decisions_table(results: Runs) -> str:
    """What each variant learned to decide, a line each: mean and spread over its seeds."""
    rows = []
    for variant, runs in results.items():
        found = [run["behaviour"] for run in runs.values()]
        cells = [spread_cell([one[name] for one in found]) for name in BEHAVIOUR]
        cells += [spread_cell([one["crop_rates"].get(kind) for one in found]) for kind in WANTED]
        boxes = [one["above"]["boxes"].value for one in found if "boxes" in one["above"]]
        rows.append([variant, spread_cell([_cond(r, "policy") for r in runs.values()]), *cells])
        rows[-1] += [spread_cell(boxes), str(len(runs))]
    heads = ["decisions, test, mean ± sd", "CondR@1", "AUROC", "within a wording"]
    heads += ["regret, R@1", "of better", *(f"crop rate, {kind}" for kind in WANTED)]
    return markdown_table([*heads, "boxes, wants crop", "seeds"], rows)


def _differences(results: Runs) -> list[str]:
    """At most one table: each two variants, paired by the seeds that both have."""
    rows = []
    for (name, runs), (other_name, other_runs) in combinations(results.items(), 2):
        seeds = sorted(set(runs) & set(other_runs))
        cells = []
        for metric in DIFFERENCE_METRICS:
            pairs = [(_policy(runs[s], metric), _policy(other_runs[s], metric)) for s in seeds]
            gaps = [a - b for a, b in pairs if a is not None and b is not None]
            if len(gaps) < max(2, len(seeds)):
                break
            interval = seed_interval(gaps)
            cells.append(f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]")
        else:
            rows.append([f"{name} - {other_name}", *cells, str(len(seeds))])
    heads = ["paired by seed, test, 95% t-interval", *(METRICS[m] for m in DIFFERENCE_METRICS)]
    return [markdown_table([*heads, "seeds"], rows)] if rows else []


def queries_to_prefer_region(run: SeedRun) -> int | None:
    """Training queries seen when mean P(FULL) was first below 1/2; None if it never was."""
    return next((seen for seen, p in run["p_full"] if p < 0.5), None)


def _speed_table(results: Runs) -> str:
    curves = {v: [dict(run["curve"]) for run in runs.values()] for v, runs in results.items()}
    seen = sorted(set.intersection(*(set(c) for of_seeds in curves.values() for c in of_seeds)))
    rows = []
    for variant, runs in results.items():
        cells = [spread_cell([curve[at] for curve in curves[variant]]) for at in seen]
        reached = [queries_to_prefer_region(run) for run in runs.values()]
        rows.append([variant, *cells, ", ".join("never" if x is None else str(x) for x in reached)])
    heads = [*(f"after {at}" for at in seen), "queries until P(FULL) < 1/2, by seed"]
    return markdown_table(["validation CondR@1 by queries seen, mean ± sd", *heads], rows)


def draw_curves(results: Runs, levels: Mapping[str, float | None], path: Path) -> None:
    """Learning curves as PNG: a thin line per seed, a thick one for the mean of a variant.

    Args:
        results: Runs by variant and seed.
        levels: Validation CondR@1 that needs no training: `full`, `warm_start` (where every curve
            begins) and `reference`, drawn as horizontal lines; None is left out.
        path: File to write.
    """
    # Not pyplot: it would look for a screen and keep the figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8.0), layout="constrained")
    (ranking, decision), (telling, cropping) = figure.subplots(2, 2)
    start = levels.get("warm_start")
    first = [] if start is None else [(0, start)]
    for (variant, runs), colour in zip(results.items(), cycle(COLOURS), strict=False):
        label = f"{variant}, mean of {len(runs)} seeds"
        curves = [[*first, *run["curve"]] for run in runs.values()]
        _draw_variant(ranking, curves, colour, label)
        _draw_variant(decision, [run["p_full"] for run in runs.values()], colour, label)
        for axes, name, style in (
            (telling, "decision_auroc", "-"),
            (cropping, "region_rate_crop_better", "-"),
            (cropping, "region_rate_full_better", "--"),
        ):
            told = [run["decision_curves"].get(name, ()) for run in runs.values()]
            _draw_variant(axes, told, colour, label, style)
    for name, style in (("reference", "--"), ("warm_start", ":"), ("full", "-.")):
        level = levels.get(name)
        if level is not None:
            ranking.axhline(level, color="#555", linestyle=style, linewidth=1.2, label=name)
    ranking.set_ylabel("CondR@1, validation")
    decision.set_ylabel("mean P(FULL), training queries")
    telling.set_ylabel('AUROC of P(REGION), "the crop ranks better"')
    cropping.set_ylabel("crop rate: crop better (solid), full better (dashed)")
    for axes in (ranking, decision, telling, cropping):
        axes.set(xlabel="training queries seen", ylim=(0, 1))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
    ranking.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def _draw_variant(
    axes: "Axes",
    curves: Sequence[Sequence[tuple[int, float]]],
    colour: str,
    label: str,
    style: str = "-",
) -> None:
    points = [dict(curve) for curve in curves]
    for curve in points:
        axes.plot(
            list(curve),
            list(curve.values()),
            color=colour,
            alpha=0.35,
            linewidth=1,
            linestyle=style,
        )
    shared = sorted(set.intersection(*(set(curve) for curve in points)))
    means = [mean(curve[seen] for curve in points) for seen in shared]
    axes.plot(shared, means, color=colour, linewidth=2.5, label=label, linestyle=style)


def _policy(run: SeedRun, metric: str) -> float | None:
    return run["test"].get("policy", {}).get(metric)


def _cond(run: SeedRun, method: str) -> float | None:
    return run["test"].get(method, {}).get("cond_recall_at_1")


def _row(name: str, values: Sequence[float | None]) -> list[str]:
    return [name, spread_cell(values), *("-" if x is None else f"{x:.3f}" for x in values)]
