"""What a study found: table of trials, totals, pictures."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from regionr1.sweep.worker import REASON_ATTR, RUN_ATTR, STEP_ATTR, counted

if TYPE_CHECKING:
    from optuna import Study

CONTOURS = 3  # parameters whose pairs are drawn


def trials_csv(study: Study, metrics: Sequence[str]) -> str:
    """One line per trial, those taken up again left out."""
    trials = counted(study)
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = ["trial", "state", *metrics, *names, "last_step", "seconds", "run_id", "reason"]
    writer.writerow(heads)
    for trial in trials:
        values = trial.values or _last(trial, len(metrics))
        seconds = "" if trial.duration is None else f"{trial.duration.total_seconds():.1f}"
        writer.writerow(
            [
                trial.number,
                trial.state.name,
                *("" if value is None else f"{value:.6g}" for value in values),
                *(trial.params.get(name, "") for name in names),
                trial.user_attrs.get(STEP_ATTR, ""),
                seconds,
                trial.user_attrs.get(RUN_ATTR, ""),
                trial.user_attrs.get(REASON_ATTR, ""),
            ]
        )
    return out.getvalue()


def _last(trial: FrozenTrial, n: int) -> list[float | None]:
    """The last value that a pruned trial reported."""
    steps = trial.intermediate_values
    return [steps[max(steps)]] if steps and n == 1 else [None] * n


def totals(study: Study) -> dict[str, float]:
    """Numbers of trials by outcome, seconds spent, and seconds that pruning saved.

    The saving is an estimate: the seconds per step of each pruned trial times the steps that
    complete trials ran beyond it.
    """
    trials = counted(study)
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "fail": TrialState.FAIL}
    found = {
        f"trials_{name}": float(sum(trial.state == state for trial in trials))
        for name, state in states.items()
    }
    done = [trial for trial in trials if trial.duration is not None]
    found["seconds"] = sum(_seconds(trial) for trial in done)
    lengths = [
        trial.user_attrs.get(STEP_ATTR, 0) for trial in done if trial.state == TrialState.COMPLETE
    ]
    length = max(lengths, default=0)
    found["seconds_saved_by_pruning"] = sum(
        _seconds(trial) / step * max(0, length - step)
        for trial in done
        if trial.state == TrialState.PRUNED and (step := trial.user_attrs.get(STEP_ATTR, 0))
    )
    if len(study.directions) == 1 and found["trials_complete"]:
        found["best"] = float(study.best_value)
    return found


def _seconds(trial: FrozenTrial) -> float:
    return 0.0 if trial.duration is None else trial.duration.total_seconds()


def draw(study: Study, metrics: Sequence[str], folder: Path) -> list[str]:
    """Writes the pictures as PNG into a folder.

    Args:
        study: The study.
        metrics: Names of its objectives.
        folder: Where to; must exist.

    Returns:
        Names of the pictures that the study has too few trials for.
    """
    import matplotlib

    matplotlib.use("Agg")  # Optuna draws with pyplot, which would look for a screen
    import optuna.visualization.matplotlib as plot

    complete = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    missing: list[str] = []
    for index, metric in enumerate(metrics):
        target, tail = None, ""
        if len(metrics) > 1:
            target, tail = _target(index, 1), "_" + metric.replace("/", "_")
        # Importance is for reaching low values, unless Optuna knows the direction itself.
        up = study.directions[index].name == "MAXIMIZE"
        low = None if target is None else _target(index, -1 if up else 1)
        shown = _most_important(study, complete, low)
        named: dict[str, Any] = {"target": target, "target_name": metric}
        pictures: dict[str, Callable[[], object]] = {
            "history": partial(plot.plot_optimization_history, study, **named),
            "importance": partial(
                plot.plot_param_importances, study, target=low, target_name=metric
            ),
            "parallel_coordinates": partial(plot.plot_parallel_coordinate, study, **named),
            "contour": partial(plot.plot_contour, study, params=shown, **named),
        }
        if len(metrics) == 1:
            pictures["learning_curves"] = partial(plot.plot_intermediate_values, study)
        for name, picture in pictures.items():
            enough = len(complete) > 1 and (name != "contour" or len(shown) > 1)
            if not (enough and _save(picture, folder / f"{name}{tail}.png")):
                missing.append(name + tail)
    if len(metrics) in (2, 3) and complete:
        front = partial(plot.plot_pareto_front, study, target_names=list(metrics))
        _save(front, folder / "pareto_front.png")
    return missing


def _target(index: int, sign: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: sign * trial.values[index]


def _most_important(
    study: Study, complete: Sequence[FrozenTrial], low: Callable[[FrozenTrial], float] | None
) -> list[str]:
    """Parameters of every complete trial that took several values, most important first."""
    names = [
        name
        for name in (complete[0].params if len(complete) > 1 else {})
        if all(name in trial.params for trial in complete)
        and len({trial.params[name] for trial in complete}) > 1
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ranked = list(optuna.importance.get_param_importances(study, params=names, target=low))
    except (ValueError, RuntimeError):  # all values equal: nothing matters more than anything
        ranked = names
    return ranked[:CONTOURS]


def _save(picture: Callable[[], object], path: Path) -> bool:
    import matplotlib.pyplot as plt

    try:
        with plt.style.context("default"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on ranges of one value and on targets of ours
            axes = picture()
        figure = plt.gcf()
    except (ValueError, RuntimeError):  # too little to draw: one value, one trial
        plt.close("all")
        return False
    panels = len(getattr(axes, "flat", [axes]))
    figure.set_size_inches(*((12, 10) if panels > 1 else (9, 5.5)))
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close("all")
    return True
