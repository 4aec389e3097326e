"""`--resume RUN`, which is replaced by what it stands for before options are parsed."""

import sys
from pathlib import Path
from typing import cast

from regionr1.errors import UserError
from regionr1.tracking.resume import ResumableRun, find_run, measures_otherwise
from regionr1.tracking.run_folder import Which
from regionr1.tracking.store import default_tracking_uri


def with_resume(args: list[str], folder: Path) -> tuple[list[str], ResumableRun | None]:
    """Replaces `--resume RUN_ID` by the config file, checkpoint and run id it stands for.

    The user's options stay last. Figures of other data or settings never replace a run's own.

    Returns:
        The arguments, and the run.
    """
    verb = args[0]
    run_id, rest = take_option(args[1:], "--resume")
    which, rest = take_option(rest, "--checkpoint")
    if run_id is None:
        if which is not None:
            raise UserError("--checkpoint goes with --resume; --ckpt_path takes a file")
        explained = ("-h", "--help", "--ckpt_path", "--print_config")
        if verb != "fit" and not any(arg.startswith(explained) for arg in args):
            print(
                f"{verb}: without --resume the policy is as it was before training",
                file=sys.stderr,
            )
        return args, None
    if which not in (None, "best", "last"):
        raise UserError(f"--checkpoint is best or last, not {which!r}")
    if verb == "fit" and which == "best":
        raise UserError(
            "fit goes on from the last checkpoint; to train on from another one, start a new run "
            "with --ckpt_path"
        )
    chosen = cast(Which, which or ("last" if verb == "fit" else "best"))
    resumable = find_run(run_id, uri_of(rest), chosen)
    resumable.refuse_what_a_config_must_not_bring(rest)
    print(f"{verb}: {resumable.told}", file=sys.stderr)
    other = measures_otherwise(rest) if verb in ("validate", "test") else []
    if other:
        print(
            f"{verb}: run {resumable.run_id} was not trained with {', '.join(other)}; what "
            "this measures is logged as a run of its own",
            file=sys.stderr,
        )
    own = not other and (which is None or verb in ("fit", "predict"))
    if not own and not other:
        print(
            f"{verb}: what --checkpoint {which} measures is logged as a run of its own",
            file=sys.stderr,
        )
    arguments = resumable.arguments(folder / "config.yaml", own)
    return [verb, *arguments, *rest], resumable


def uri_of(args: list[str]) -> str:
    """The tracking store among options, or the usual one."""
    uri, _ = take_option(args, "--trainer.logger.init_args.tracking_uri")
    return uri or default_tracking_uri()


def take_option(args: list[str], name: str) -> tuple[str | None, list[str]]:
    """The value of `--name VALUE` or `--name=VALUE`, and the other arguments.

    Raises:
        UserError: If the option comes without a value.
    """
    value, rest = None, []
    remaining = iter(args)
    for arg in remaining:
        if arg == name:
            value = next(remaining, None)
            if value is None or value.startswith("--"):
                raise UserError(f"{name} needs a value")
        elif arg.startswith(f"{name}="):
            value = arg.split("=", 1)[1]
        else:
            rest.append(arg)
    return value, rest
