"""A scorer by name, by its weights, or by its class and arguments, in a YAML file or inline."""

from argparse import ArgumentError
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from regionr1.config_errors import check_config_files, explain
from regionr1.errors import UserError
from regionr1.recipes import find
from regionr1.scorers.base import Scorer
from regionr1.scorers.builtin import BuiltinScorer, PixelScorer


def load_scorer(name: str | dict[str, Any]) -> Scorer:
    """A scorer by name or file.

    Args:
        name: `builtin`, `pixels`, weights that `scripts/train_scorer` wrote (`.safetensors`), or a
            YAML file with the `class_path` of any `Scorer` and its `init_args`, such as those in
            `conf/scorer/`, which travel with the package; or what such a file holds.

    Raises:
        UserError: There is no such scorer, or it cannot be made.
    """
    if isinstance(name, dict):
        return _instance(name, "the scorer", [])
    if name == "builtin":
        shipped = files("regionr1.builtin").joinpath("scorer.safetensors")
        return BuiltinScorer.from_file(Path(str(shipped)))
    if name == "pixels":
        return PixelScorer()
    if name.endswith(".safetensors"):
        return BuiltinScorer.from_file(Path(name))
    if name.endswith((".yaml", ".yml")):
        return _instance(read_scorer(Path(name)), name, ["--config", name])
    raise UserError(
        f"unknown scorer '{name}': use 'builtin', 'pixels', the path of a .safetensors file or a "
        ".yaml file with class_path and init_args"
    )


def scorer_parser() -> ArgumentParser:
    """Reads `{"scorer": {"class_path": ..., "init_args": ...}}`."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Scorer, "scorer", required=True)
    return parser


def read_scorer(path: Path) -> dict[str, Any]:
    """Class and arguments in a scorer's YAML file, here or of those that travel with the package.

    Raises:
        UserError: It is missing or no YAML.
    """
    path = find(str(path))
    check_config_files(["--config", str(path)])
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _instance(described: dict[str, Any], where: str, args: list[str]) -> Scorer:
    parser = scorer_parser()
    try:
        return parser.instantiate(parser.parse_object({"scorer": described}))["scorer"]
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {explain(str(error), args)}") from error
