"""`regionr1 data <command>`: plain functions, options from their signatures and docstrings."""

from argparse import ArgumentError
from collections.abc import Callable, Mapping

from jsonargparse import auto_cli

from regionr1.config_errors import explain
from regionr1.errors import UserError


def data_commands() -> dict[str, Callable[..., None]]:
    """The commands by name."""
    from regionr1.builtin.benchmark import write_benchmark
    from regionr1.data import answer_commands, commands, stage_commands

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
