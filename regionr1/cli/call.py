"""`regionr1 data <command>`: plain functions, options from their signatures and docstrings."""

import json
from argparse import ArgumentError
from collections.abc import Callable, Mapping

from jsonargparse import auto_cli

from regionr1.config_errors import explain
from regionr1.errors import UserError


def data_commands() -> dict[str, Callable[..., None]]:
    """The commands by name."""
    from regionr1.builtin.benchmark import write_benchmark
    from regionr1.cli import answers as answer_commands
    from regionr1.cli import data as commands
    from regionr1.cli import data as stage_commands

    return {
        "builtin": write_benchmark,
        "inspect": commands.inspect,
        "prepare": stage_commands.prepare,
        "embed": stage_commands.embed,
        "index": stage_commands.index,
        "pool": stage_commands.pool,
        "shards": commands.shards,
        "add-scorer": stage_commands.add_scorer,
        "verify": commands.verify,
        "describe": stage_commands.describe,
        "premise": commands.premise,
        "answers": answer_commands.answers,
    }


def run_data(args: list[str], commands: Mapping[str, Callable[..., None]] | None = None) -> None:
    """Runs one data command.

    Args:
        args: Name of the command and its options.
        commands: The commands; None means data_commands().

    Raises:
        UserError: If the command or its options are wrong, or the command meets bad input.
    """
    try:
        auto_cli(
            dict(data_commands() if commands is None else commands),
            args=args or ["--help"],
            prog="regionr1 data",
            as_positional=False,
            exit_on_error=False,
        )
    except ArgumentError as error:
        raise UserError(explain(str(error), args)) from error


def call(function: Callable[..., None], args: list[str], prog: str) -> None:
    """Runs a function with options from its signature, spelled with - or _.

    Raises:
        UserError: If the options are wrong, or the function meets bad input.
    """
    spelled = []
    for arg in args or ["--help"]:
        name, equals, value = arg.partition("=")
        name = "--" + name[2:].replace("-", "_") if name.startswith("--") else name
        spelled.append(name + equals + value)
    try:
        auto_cli(function, args=spelled, prog=prog, exit_on_error=False)
    except ArgumentError as error:
        raise UserError(explain(str(error), args)) from error


def run(args: list[str]) -> None:
    """Runs one sweep command.

    Raises:
        UserError: If the command or its options are wrong, or the command meets bad input.
    """
    from regionr1.cli import sweep as commands

    if args and args[0] in ("best", "report"):
        call(getattr(commands, args[0]), args[1:], f"regionr1 sweep {args[0]}")
        return
    if "--" in args:
        cut = args.index("--")
        args = [*args[:cut], "--fit_options", json.dumps(args[cut + 1 :])]
    call(commands.sweep, args, "regionr1 sweep")
