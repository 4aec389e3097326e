"""The command line: `regionr1 fit|validate|test|predict`, `regionr1 data`, `regionr1 sweep`...

Nothing heavy is imported before it is known what is asked, so that `regionr1 --help` answers at
once. Every error that a user can cause ends as one line on stderr and exit code 2.
"""

import sys
from collections.abc import Sequence

from regionr1.cli.commands import COMMANDS, GROUPS, VERBS, names, table
from regionr1.config_errors import check_config_files
from regionr1.errors import ERROR_LINE, UserError, exit_code, sentence
from regionr1.files import refused
from regionr1.memory import keep_freed_memory
from regionr1.recipes import expand
from regionr1.suggest import nearest

HELP = f"""\
usage: regionr1 {{{",".join(names())}}} ...

Learn where to look before ranking: a vision-language policy keeps the whole query image or crops
one region, and a frozen re-ranker orders the candidates with what is left.

commands:
{table()}
examples:
  regionr1 fit -c quickstart --model.group_size 8
  regionr1 fit --resume RUN_ID --trainer.max_steps 200
  regionr1 test --resume last
  regionr1 predict --resume last --predictions.path out.jsonl
  regionr1 sweep group_kl_prior --n-trials 30
  mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db

Configs stack from left to right and options come after the command; `regionr1 fit --help all`
lists them all. `--resume` goes on with an MLflow run, or with the newest: its config, its last
checkpoint (a test takes the best), and everything is logged into that run.

options:
  -h, --help   this text
  --version    version number
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None takes them from sys.argv.

    Returns:
        0, 2 after bad input, 130 after Ctrl-C, or 143 after SIGTERM.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    keep_freed_memory()
    try:
        dispatch(args)
    except UserError as error:
        print(ERROR_LINE + sentence(error), file=sys.stderr)
        return 2
    except OSError as error:  # of the machine, met where nothing more could be said about it
        print(
            ERROR_LINE + sentence(refused(error.filename or " ".join(args[:2]), error)),
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as interrupt:
        return exit_code(interrupt)
    return 0


def dispatch(args: list[str]) -> None:
    """Choose the command and run it.

    Raises:
        UserError: If there is no such command, or the command meets bad input.
    """
    first, second = (args + ["", ""])[:2]
    if first in ("", "-h", "--help"):
        print(HELP, end="")
    elif first == "--version":
        from regionr1 import __version__

        print(__version__)
    elif first in VERBS:
        _run_verb(args)
    elif first in GROUPS and second in ("", "-h", "--help"):
        print(f"usage: regionr1 {first} {{{','.join(names(first))}}} ...\n\n{table(first)}")
        print(f"`regionr1 {first} COMMAND --help` lists the options of one.")
    elif f"{first} {second}" in COMMANDS:
        _run(f"{first} {second}", args[2:], as_positional=first not in GROUPS)
    elif first in COMMANDS:
        _run(first, args[1:])
    elif first in GROUPS:
        near = nearest(second, names(first)) or f"; choose from {', '.join(names(first))}"
        raise UserError(f"there is no command `{first} {second}`{near}")
    elif first.startswith("-"):
        raise UserError(f"options come after the command, as in `regionr1 fit {first} ...`")
    else:
        near = nearest(first, names()) or f"; choose from {', '.join(names())}"
        raise UserError(f"there is no command {first!r}{near}")


def _run(name: str, args: list[str], as_positional: bool = True) -> None:
    from regionr1.cli.call import call

    command = COMMANDS[name]
    call(command.load(), command.spell(args), f"regionr1 {name}", as_positional, command.bare)


def _run_verb(args: list[str]) -> None:
    """What can be told without a model is told before one is imported."""
    verb, *options = args
    if {"-h", "--help"} & set(options) and "all" not in options:
        from regionr1.cli.help import verb_help

        print(verb_help(verb, VERBS[verb]), end="")
        return
    check_config_files(expand(args))
    given = {option.partition("=")[0] for option in options}
    if not given & {"-c", "--config", "--resume", "--data.shards", "-h", "--help"}:
        raise UserError(
            f"{verb} needs a recipe, as in `regionr1 {verb} -c quickstart` (`regionr1 recipes` "
            "lists them), or a run, as in `--resume last`"
        )
    from regionr1.cli.fit import run

    run([arg for arg in args if arg != "all"] if "--help" in options else args)
