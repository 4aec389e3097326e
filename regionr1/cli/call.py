"""The one wrapper that runs a command: options from a signature, errors of one sentence."""

import inspect
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import auto_cli

from regionr1.config_errors import explain
from regionr1.errors import UserError


def call(
    command: Callable[..., Any], args: Sequence[str], prog: str, as_positional: bool = True
) -> None:
    """Run a command with the options that its signature and docstring describe.

    Options are spelled with - or _, and in full.

    Args:
        command: A function, or a dataclass whose fields are the options and whose `run` does it.
        args: The options; none at all shows the help.
        prog: What the user typed before them.
        as_positional: Whether what is required comes without a name.

    Raises:
        UserError: If the options are wrong, or the command meets bad input.
    """
    try:
        made = auto_cli(
            command,
            args=[_with_underscores(arg) for arg in args] or ["--help"],
            prog=prog,
            as_positional=as_positional,
            return_instance=inspect.isclass(command),
            exit_on_error=False,
            allow_abbrev=False,
        )
    except ArgumentError as error:
        raise UserError(explain(str(error), list(args))) from error
    if inspect.isclass(command):
        made.run()


def _with_underscores(arg: str) -> str:
    """The name of an option as the signature has it; values stay as they are."""
    name, equals, value = arg.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else arg
