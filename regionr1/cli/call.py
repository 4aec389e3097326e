"""The one wrapper that runs a command: options from a signature, errors of one sentence."""

import inspect
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import auto_cli

from regionr1.cli.commands import COMMANDS
from regionr1.cli.spelling import with_underscores, with_values
from regionr1.config_errors import explain
from regionr1.errors import UserError


def call(
    command: Callable[..., Any],
    args: Sequence[str],
    prog: str,
    as_positional: bool = True,
    bare: bool = False,
) -> None:
    """Run a command with the options that its signature and docstring describe.

    Options are spelled with - or _, and in full; booleans are flags.

    Args:
        command: A function, or a dataclass whose fields are the options and whose `run` does it.
        args: The options; none at all shows the help.
        prog: What the user typed before them.
        as_positional: Whether what is required comes without a name.
        bare: Whether it can be run without any options.

    Raises:
        UserError: If the options are wrong, or the command meets bad input.
    """
    spelled = list(with_underscores(with_values(args)))
    try:
        made = auto_cli(
            command,
            args=spelled or ([] if bare else ["--help"]),
            prog=prog,
            as_positional=as_positional,
            return_instance=inspect.isclass(command),
            exit_on_error=False,
            allow_abbrev=False,
        )
    except ArgumentError as error:
        raise UserError(explain(str(error), spelled, _options(command))) from error
    if inspect.isclass(command):
        made.run()


def _options(command: Callable[..., Any]) -> list[str]:
    return [f"--{name}" for name in inspect.signature(command).parameters]


def options_of(name: str) -> list[str]:
    """The options of a command of the table."""
    return _options(COMMANDS[name].load())
