"""The settings of a trial as a config file that is stacked last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from regionr1.errors import UserError
from regionr1.sweep.plan import SweepPlan
from regionr1.sweep.space import overrides
from regionr1.sweep.worker import RUN_ATTR

if TYPE_CHECKING:
    from optuna import Study


def overlay(plan: SweepPlan, study: Study, number: int | None = None) -> str:
    """YAML with a comment that says where it comes from.

    Args:
        plan: The sweep.
        study: Its study.
        number: The trial; None means the best, and of several objectives the one of the Pareto
            front that is best by the first.

    Raises:
        UserError: If there is no such trial, or none is complete.
    """
    trial = _best(plan, study) if number is None else _numbered(study, number)
    settings = {**plan.fixed, **overrides(plan.space, trial.params)}
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    values = [f"{value:.6g}" for value in trial.values or []]
    reached = ", ".join(f"{n} {v}" for n, v in zip(plan.metrics, values, strict=False))
    configs = " ".join(f"-c {path}" for path in plan.configs)
    lines = [
        f"# Trial {trial.number} of the study {plan.study} ({plan.path.name}): "
        f"{reached or trial.state.name.lower()}.",
        f"# Measured at the best checkpoint of its run {trial.user_attrs.get(RUN_ATTR)},",
        "# the one that `regionr1 test` takes. Stack this file last:",
        f"#   regionr1 fit {configs} -c THIS_FILE",
    ]
    return "\n".join(lines) + "\n" + yaml.safe_dump(tree, sort_keys=False)


def _best(plan: SweepPlan, study: Study) -> FrozenTrial:
    complete = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if not complete:
        raise UserError(f"study {plan.study} has no complete trial; go on with the sweep")
    sign = -1 if plan.directions[0] == "maximize" else 1
    return min(study.best_trials, key=lambda trial: sign * trial.values[0])


def _numbered(study: Study, number: int) -> FrozenTrial:
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise UserError(f"there is no trial {number}; the study has 0 to {len(trials) - 1}")
    return trials[number]
