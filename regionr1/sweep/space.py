"""The search space of a sweep: named parameters, each a list of LightningCLI keys and a range.

A parameter may be conditional: it is only asked for when an earlier one took one of some values,
so that a trial never holds a setting that could not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from regionr1.errors import UserError

if TYPE_CHECKING:
    from optuna import Trial

Value = str | int | float | bool | None
FIELDS = {
    "int": {"low", "high", "step", "log"},
    "float": {"low", "high", "step", "log"},
    "categorical": {"choices"},
}
COMMON = {"type", "keys", "when"}


@dataclass(frozen=True)
class Parameter:
    """One dimension of the search.

    Attributes:
        name: Its name in the study; by default the key itself.
        keys: The LightningCLI keys that get its value, one or several.
        kind: `int`, `float` or `categorical`.
        low: Smallest value of a number.
        high: Largest value of a number.
        step: Distance between two values of a number; None for 1, or for any float.
        log: Whether a number is searched on a logarithmic scale.
        choices: Values of a categorical parameter.
        when: Earlier parameters and the values that make this one count.
    """

    name: str
    keys: tuple[str, ...]
    kind: str
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def counts(self, values: Mapping[str, Value]) -> bool:
        """Whether the parameter is asked for, given the values of the earlier ones."""
        return all(
            name in values and values[name] in allowed for name, allowed in self.when.items()
        )

    def suggest(self, trial: Trial) -> Value:
        """Asks the trial for a value."""
        if self.kind == "categorical":
            return trial.suggest_categorical(self.name, self.choices)
        if self.kind == "int":
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return trial.suggest_int(self.name, low, high, step=step, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def contains(self, value: object) -> bool:
        """Whether a value given by hand lies in the range."""
        if self.kind == "categorical":
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.kind == "int" and not isinstance(value, int):
            return False
        if self.step is not None or self.kind == "int":
            steps = (value - self.low) / (self.step or 1)
            if not math.isclose(steps, round(steps), abs_tol=1e-9):
                return False
        return self.low <= value <= self.high

    def samples(self) -> tuple[Value, ...]:
        """Values that stand for the whole range where it is checked."""
        return self.choices if self.kind == "categorical" else (self.low, self.high)

    def grid(self) -> list[Value]:
        """Every value, for a grid.

        Raises:
            UserError: If there are infinitely many.
        """
        if self.kind == "categorical":
            return list(self.choices)
        if self.log or (self.kind == "float" and self.step is None):
            raise UserError(
                f"space.{self.name} is a continuous range, which a grid cannot hold: give it "
                "choices or a step"
            )
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.low + i * step for i in range(count)]


def read_space(raw: object) -> list[Parameter]:
    """Parameters from the `space` of a sweep file.

    Raises:
        UserError: If one of them makes no sense.
    """
    if not isinstance(raw, dict) or not raw:
        raise UserError("space is empty; give it at least one key such as model.group_size")
    parameters: list[Parameter] = []
    for name, fields in raw.items():
        parameter = _parameter(str(name), fields, parameters)
        taken = {key for earlier in parameters for key in earlier.keys}
        if double := sorted(taken & set(parameter.keys)):
            raise UserError(f"space.{name}: {double[0]} is set by another parameter already")
        parameters.append(parameter)
    return parameters


def suggest(space: Iterable[Parameter], trial: Trial) -> dict[str, Value]:
    """The values of a trial by parameter name."""
    values: dict[str, Value] = {}
    for parameter in space:
        if parameter.counts(values):
            values[parameter.name] = parameter.suggest(trial)
    return values


def overrides(space: Iterable[Parameter], values: Mapping[str, Value]) -> dict[str, Value]:
    """The LightningCLI keys and values that a trial's parameters stand for."""
    return {
        key: values[parameter.name]
        for parameter in space
        if parameter.name in values
        for key in parameter.keys
    }


def grid(space: Iterable[Parameter]) -> Iterator[dict[str, Value]]:
    """Every combination of values."""
    parameters = list(space)
    for values in product(*(parameter.grid() for parameter in parameters)):
        yield {parameter.name: v for parameter, v in zip(parameters, values, strict=True)}


def check_point(space: Iterable[Parameter], point: object, where: str) -> dict[str, Value]:
    """A setting that is tried first, as the study takes it.

    Raises:
        UserError: If it names an unknown parameter, a value outside its range, or lacks one.
    """
    if not isinstance(point, dict):
        raise UserError(f"{where} is no setting; write parameter: value")
    known = {parameter.name: parameter for parameter in space}
    for name, value in point.items():
        if name not in known:
            raise UserError(f"{where}: {name} is not in the space; it holds {', '.join(known)}")
        if not known[name].contains(value):
            raise UserError(f"{where}: {name} cannot be {value!r}, which its range does not hold")
    for parameter in known.values():
        if parameter.counts(point) != (parameter.name in point):
            verb = "lacks" if parameter.counts(point) else "needs no"
            raise UserError(f"{where} {verb} {parameter.name}")
    return point


def _parameter(name: str, fields: object, earlier: list[Parameter]) -> Parameter:
    where = f"space.{name}"
    if not isinstance(fields, dict) or fields.get("type") not in FIELDS:
        raise UserError(f"{where} needs a type: one of {', '.join(FIELDS)}")
    kind = fields["type"]
    if unknown := sorted(set(fields) - COMMON - FIELDS[kind]):
        raise UserError(
            f"{where}: {unknown[0]} does not belong to a parameter of type {kind}, which has "
            f"{', '.join(sorted(FIELDS[kind] | COMMON))}"
        )
    keys = fields.get("keys", [name])
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{where}: keys must be a list of config keys, not {keys!r}")
    when = _conditions(where, fields.get("when", {}), earlier)
    if kind == "categorical":
        return Parameter(name, tuple(keys), kind, choices=_choices(where, fields), when=when)
    low, high, step = _range(where, kind, fields)
    log = fields.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{where}: log must be true or false, not {log!r}")
    if log and (low <= 0 or step is not None):
        raise UserError(f"{where}: a logarithmic range needs a low above 0 and no step")
    return Parameter(name, tuple(keys), kind, low, high, step, log, when=when)


def _choices(where: str, fields: Mapping[str, Any]) -> tuple[Value, ...]:
    choices = fields.get("choices")
    if not isinstance(choices, list) or not choices:
        raise UserError(f"{where} needs choices, a list of at least one value")
    for choice in choices:
        if not isinstance(choice, Value):
            raise UserError(f"{where}: {choice!r} is no choice; a choice is a text or a number")
    if len({repr(choice) for choice in choices}) < len(choices):
        raise UserError(f"{where}: choices holds a value twice")
    return tuple(choices)


def _range(where: str, kind: str, fields: Mapping[str, Any]) -> tuple[float, float, float | None]:
    allowed = int if kind == "int" else (int, float)
    for name in ("low", "high", "step"):
        value = fields.get(name)
        if name == "step" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, allowed) or not math.isfinite(value):
            hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if isinstance(value, str) else ""
            raise UserError(f"{where}: {name} must be a number of type {kind}, not {value!r}{hint}")
    low, high, step = fields["low"], fields["high"], fields.get("step")
    if low > high:
        raise UserError(f"{where}: the range from {low} to {high} is empty; swap low and high")
    if step is not None and step <= 0:
        raise UserError(f"{where}: step must be above 0, not {step}")
    return (low, high, step) if kind == "int" else (float(low), float(high), step)


def _conditions(where: str, when: object, earlier: list[Parameter]) -> dict[str, tuple[Value, ...]]:
    if not isinstance(when, dict):
        raise UserError(f"{where}: when must be a mapping of parameter to values, not {when!r}")
    known = {parameter.name: parameter for parameter in earlier}
    conditions = {}
    for name, values in when.items():
        if name not in known:
            raise UserError(f"{where}: when names {name}, which does not stand before it")
        values = values if isinstance(values, list) else [values]
        for value in values:
            if not known[name].contains(value):
                raise UserError(f"{where}: when needs {name} to be {value!r}, which it never is")
        conditions[name] = tuple(values)
    return conditions
