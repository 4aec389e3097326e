"""A sweep file: what is searched, by which measure, starting from which configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from regionr1.config_errors import check_config_files, locate
from regionr1.errors import UserError
from regionr1.recipes import find
from regionr1.sweep.space import Parameter, Value, check_point, grid, overrides, read_space

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

REQUIRED = ("study", "configs", "objectives", "space")
OPTIONAL = ("set", "n_trials", "sampler", "pruner", "enqueue")
DIRECTIONS = ("maximize", "minimize")
TPE = {
    "class_path": "optuna.samplers.TPESampler",
    # constant_liar: workers that ask at the same time get different settings
    "init_args": {"multivariate": True, "group": True, "constant_liar": True, "seed": 0},
}


@dataclass(frozen=True)
class SweepPlan:
    """A sweep file, read and checked as far as it can be without the command line.

    Attributes:
        path: The file.
        study: Name of the study and of its parent run in MLflow.
        configs: Config files that every trial stacks.
        fixed: Options that every trial gets, by key.
        metrics: Logged metrics that are optimised.
        directions: `maximize` or `minimize`, one per metric.
        space: What is searched.
        enqueue: Settings tried first.
        n_trials: Trials in total, of all workers together.
        sampler: Class path and arguments of an Optuna sampler.
        pruner: Class path and arguments of an Optuna pruner; None never prunes.
    """

    path: Path
    study: str
    configs: tuple[Path, ...]
    fixed: dict[str, Value]
    metrics: tuple[str, ...]
    directions: tuple[str, ...]
    space: tuple[Parameter, ...]
    enqueue: tuple[dict[str, Value], ...]
    n_trials: int
    sampler: dict[str, Any]
    pruner: dict[str, Any] | None

    def fit_arguments(self, values: Mapping[str, Value]) -> list[str]:
        """The command line, without `regionr1`, of a trial with these parameter values."""
        settings = {**self.fixed, **overrides(self.space, values)}
        configs = [part for path in self.configs for part in ("-c", str(path))]
        return ["fit", *configs, *(part for k, v in settings.items() for part in option(k, v))]

    def make_sampler(self, trial: int = 0) -> BaseSampler:
        """The sampler; a grid gets its points from the space.

        Args:
            trial: Added to the seed, where there is one. Otherwise every worker, and every time the
                command is given again, would draw the same settings.
        """
        arguments = dict(self.sampler.get("init_args") or {})
        if isinstance(arguments.get("seed"), int) and not self.is_grid:
            arguments["seed"] += trial
        if self.is_grid:
            arguments.setdefault("search_space", {p.name: p.grid() for p in self.space})
            if any(parameter.when for parameter in self.space):
                raise UserError(f"{self.path}: a grid cannot hold a conditional parameter")
        return _instance(self.path, "sampler", self.sampler["class_path"], arguments)

    def make_pruner(self) -> BasePruner:
        """The pruner, measured in optimizer steps."""
        spec = self.pruner or {"class_path": "optuna.pruners.NopPruner"}
        return _instance(self.path, "pruner", spec["class_path"], dict(spec.get("init_args") or {}))

    @property
    def is_grid(self) -> bool:
        """Whether every combination is tried once."""
        return self.sampler["class_path"].endswith("GridSampler")


def option(key: str, value: Value) -> tuple[str, str]:
    """One option of `regionr1 fit`, its value written as YAML reads it back."""
    if isinstance(value, str):
        return f"--{key}", value
    return f"--{key}", yaml.safe_dump(value).splitlines()[0]


def read_plan(path: Path, fixed: Mapping[str, Value] | None = None) -> SweepPlan:
    """Reads a sweep file.

    Args:
        path: The file.
        fixed: Options of `regionr1 fit` that win over those the file sets.

    Raises:
        UserError: If it cannot be read or makes no sense; names file and line.
    """
    check_config_files(["-c", str(path)])
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return _plan(path, raw, dict(fixed or {}))
    except UserError as error:
        message = str(error)
        # the place of what the message begins with, such as space.model.group_size
        where = place(path, message.split(" ")[0].rstrip(":"))
        raise UserError(
            message if message.startswith(str(path)) else f"{where}: {message}"
        ) from error


def place(path: Path, key: str) -> str:
    """Place, as file:line, of a section of a sweep file or of an entry in it."""
    head, _, rest = key.partition(".")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if rest and line.strip().split(":")[0] == rest:  # a dotted key is one key of the file
            return f"{path}:{number}"
    return locate(path, head) or str(path)


def _plan(path: Path, raw: Mapping[str, Any], fixed: dict[str, Value]) -> SweepPlan:
    if missing := [name for name in REQUIRED if name not in raw]:
        raise UserError(f"{missing[0]} is missing; a sweep file has {', '.join(REQUIRED)}")
    if unknown := [name for name in raw if name not in REQUIRED + OPTIONAL]:
        known = ", ".join(REQUIRED + OPTIONAL)
        raise UserError(f"{unknown[0]} is unknown; a sweep file has {known}")
    study, configs = raw["study"], raw["configs"]
    if not isinstance(study, str) or not study:
        raise UserError(f"study must be a name, not {study!r}")
    if not isinstance(configs, list) or not configs:
        raise UserError("configs must be a list of config files")
    configs = tuple(find(str(config)) for config in configs)
    check_config_files([part for config in configs for part in ("-c", str(config))])
    settings = raw.get("set") or {}
    if not isinstance(settings, dict):
        raise UserError(f"set must be a mapping of config keys to values, not {settings!r}")
    space = tuple(read_space(raw["space"]))
    settings = {**settings, **fixed}
    if clash := [key for p in space for key in p.keys if key in settings]:
        raise UserError(f"set fixes {clash[0]}, which is searched; take it out of one of the two")
    metrics, directions = _objectives(raw["objectives"])
    points = raw.get("enqueue") or []
    if not isinstance(points, list):
        raise UserError("enqueue must be a list of settings")
    enqueue = tuple(check_point(space, p, f"enqueue entry {i + 1}") for i, p in enumerate(points))
    n_trials = raw.get("n_trials", 20)
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 1:
        raise UserError(f"n_trials must be a whole number of at least 1, not {n_trials!r}")
    pruner = _class("pruner", raw.get("pruner"))
    if pruner and len(metrics) > 1:
        raise UserError("pruner: Optuna prunes studies of one objective only; take pruner out")
    plan = SweepPlan(
        path=path,
        study=study,
        configs=configs,
        fixed=settings,
        metrics=metrics,
        directions=directions,
        space=space,
        enqueue=enqueue,
        n_trials=n_trials,
        sampler=_class("sampler", raw.get("sampler")) or TPE,
        pruner=pruner,
    )
    if plan.is_grid:
        if enqueue:
            raise UserError("enqueue: a grid holds its points already; take enqueue out")
        plan = replace(plan, n_trials=len(list(grid(space))))
    plan.make_sampler(), plan.make_pruner()
    return plan


def _objectives(raw: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not isinstance(raw, list) or not raw:
        raise UserError("objectives must be a list of at least one metric with its direction")
    for entry in raw:
        sound = isinstance(entry, dict) and set(entry) == {"metric", "direction"}
        if not sound or not isinstance(entry["metric"], str):
            raise UserError(f"objectives: write metric and direction, not {entry!r}")
        if entry["direction"] not in DIRECTIONS:
            raise UserError(
                f"objectives: direction must be one of {' or '.join(DIRECTIONS)}, not "
                f"{entry['direction']!r}"
            )
    return tuple(e["metric"] for e in raw), tuple(e["direction"] for e in raw)


def _class(name: str, raw: Any) -> dict[str, Any] | None:
    if raw is None:
        return None
    if isinstance(raw, str):
        raw = {"class_path": raw}
    sound = isinstance(raw, dict) and set(raw) <= {"class_path", "init_args"}
    sound = sound and isinstance(raw.get("init_args") or {}, dict)
    if not sound or not isinstance(raw.get("class_path"), str):
        raise UserError(f"{name} must hold class_path and, if need be, init_args, not {raw!r}")
    return raw


def _instance(path: Path, name: str, class_path: str, arguments: dict[str, Any]) -> Any:
    import warnings

    import optuna
    from jsonargparse import ArgumentParser, Namespace

    base = optuna.samplers.BaseSampler if name == "sampler" else optuna.pruners.BasePruner
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, name)
    try:
        if class_path.startswith("optuna.samplers.GridSampler"):
            return optuna.samplers.GridSampler(**arguments)  # its points are of no type that parses
        config = parser.parse_object(
            {name: {"class_path": class_path, "init_args": arguments}}, defaults=False
        )
        return parser.instantiate(Namespace(config))[name]
    except Exception as error:  # what a foreign class refuses is told, whatever it raises
        reason = " ".join(str(error).split())
        raise UserError(f"{name} {class_path} cannot be made: {reason}") from error
