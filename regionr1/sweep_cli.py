"""`regionr1 sweep FILE`, `regionr1 sweep best FILE` and `regionr1 sweep report FILE`."""

import json
from argparse import ArgumentError
from collections.abc import Callable

from jsonargparse import auto_cli

from regionr1.config_errors import explain
from regionr1.errors import UserError


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
    from regionr1.sweep import commands

    if args and args[0] in ("best", "report"):
        call(getattr(commands, args[0]), args[1:], f"regionr1 sweep {args[0]}")
        return
    if "--" in args:
        cut = args.index("--")
        args = [*args[:cut], "--fit_options", json.dumps(args[cut + 1 :])]
    call(commands.sweep, args, "regionr1 sweep")
