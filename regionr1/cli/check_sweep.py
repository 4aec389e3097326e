"""A sweep file against the real command line, before the first trial."""

from __future__ import annotations

from argparse import ArgumentError
from typing import Any

from regionr1.cli import fit as lightning_cli
from regionr1.config_errors import explain
from regionr1.errors import UserError
from regionr1.sweep.plan import SweepPlan, option, place


class ParseOnly(lightning_cli.RegionCLI):
    """The command line of `fit`, read and not run."""

    def _set_seed(self) -> None:
        """Leaves randomness alone."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""


def check_plan(plan: SweepPlan, **classes: Any) -> dict[str, Any]:
    """Parses the configs of a sweep, with every parameter at the ends of its range in turn.

    Args:
        plan: The sweep.
        classes: Model and data module of `lightning_cli.run`, where they are not the usual ones.

    Returns:
        Arguments of the logger that the trials use.

    Raises:
        UserError: If a key is unknown or a value of the wrong type; names the place in the file.
    """
    arguments = plan.fit_arguments({})
    cli = lightning_cli.run(list(arguments), cli_class=ParseOnly, **classes)
    for parameter in plan.space:
        for key in parameter.keys:
            for value in parameter.samples():
                if parameter.kind == "int" and isinstance(value, float):
                    value = int(value)
                try:
                    cli.parser.parse_args([*arguments, *option(key, value)])
                except ArgumentError as error:
                    reason = explain(str(error), [])
                    where = place(plan.path, f"space.{parameter.name}")
                    raise UserError(f"{where}: space.{parameter.name}: {reason}") from error
    logger = cli.config.fit.trainer.logger
    if getattr(logger, "class_path", None) != lightning_cli.LOGGER["class_path"]:
        raise UserError(
            f"{plan.path}: trials are logged to MLflow; leave trainer.logger as it is in configs"
        )
    return logger.init_args.as_dict()
