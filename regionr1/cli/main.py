"""The command line: `regionr1 fit|validate|test|predict`, `regionr1 data` and `regionr1 sweep`.

Nothing heavy is imported before it is known what is asked, so that `regionr1 --help` answers at
once. Every error that a user can cause ends as one line on stderr and exit code 2.
"""

import json
import sys
from collections.abc import Sequence

from regionr1.errors import ERROR_LINE, UserError, sentence

VERBS = ("fit", "validate", "test", "predict")
COMMANDS = (*VERBS, "data", "sweep", "compare", "export", "upload")

HELP = """\
usage: regionr1 {fit,validate,test,predict,data,sweep,compare,export,upload} ...

Learn where to look before ranking: a vision-language policy keeps the whole query image or crops
one region, and a frozen re-ranker orders the candidates with what is left.

commands:
  fit        train the crop policy with r-GRPO
  validate   evaluate on the validation split
  test       evaluate on the test split: table of all methods, in MLflow too
  predict    write decision, box and new ranking of each test query as JSON Lines
  data       make, build and check data sets (see `regionr1 data --help`)
  sweep      search settings; `sweep best` writes the best as a config, `sweep report` shows all
  compare    what runs were set differently and what it changed on the same test queries
  export     a trained policy as an MLflow model and as a folder for RegionReranker
  upload     send what a run logged while its tracking server was away

examples:
  regionr1 fit -c conf/base.yaml -c conf/builtin.yaml -c conf/quickstart.yaml --model.group_size 8
  regionr1 fit --resume RUN_ID --trainer.max_steps 200
  regionr1 test --resume last
  regionr1 predict --resume last --predictions.path out.jsonl
  regionr1 sweep sweeps/group_kl_prior.yaml --n-trials 30
  mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db

Configs stack from left to right and options come after the command; `regionr1 fit --help` lists
them all. `--resume` goes on with an MLflow run, or with the newest: its config, its last
checkpoint, and everything is logged into that run.

options:
  -h, --help   this text
  --version    version number
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; None takes them from sys.argv.

    Returns:
        0, 2 after bad input, or 130 after Ctrl-C.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return dispatch(args)
    except UserError as error:
        print(ERROR_LINE + sentence(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def dispatch(args: list[str]) -> int:
    """Chooses the command.

    Raises:
        UserError: If there is no such command, or the command meets bad input.
    """
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if args[0] == "--version":
        from regionr1 import __version__

        print(__version__)
        return 0
    if args[0] in VERBS:
        from regionr1.cli.fit import run

        run(args)
        return 0
    if args[0] == "data":
        from regionr1.cli.call import run_data

        run_data(args[1:])
        return 0
    if args[0] == "sweep":
        from regionr1.cli import call as sweep_cli

        sweep_cli.run(args[1:])
        return 0
    if args[0] == "compare":
        from regionr1.cli.call import call
        from regionr1.tracking.tested_runs import compare

        options = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
        runs = [json.dumps(args[1:options])] if options > 1 else []
        call(compare, [*runs, *args[options:]], "regionr1 compare")
        return 0
    if args[0] == "export":
        from regionr1.cli.call import call
        from regionr1.serve.export import export

        call(export, args[1:], "regionr1 export")
        return 0
    if args[0] == "upload":
        from regionr1.cli.call import call
        from regionr1.tracking.spool import upload

        call(upload, args[1:], "regionr1 upload")
        return 0
    if args[0].startswith("-"):
        raise UserError(f"options come after the command, as in `regionr1 fit {args[0]} ...`")
    raise UserError(f"there is no command {args[0]!r}; choose from {', '.join(COMMANDS)}")
