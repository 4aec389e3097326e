"""The table of commands: what each does, and where it is, imported when it is asked for."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from regionr1.cli.signature import described


@dataclass(frozen=True)
class Command:
    """A command of one word, or of two with a group before it.

    Attributes:
        about: What it does, in a line of the help.
        target: Module and name of a function or a dataclass, as ``module:name``.
        spell: Turns what the user typed into options.
        bare: Whether it runs without any; other commands show their help then.
    """

    about: str
    target: str
    spell: Callable[[list[str]], list[str]] = list
    bare: bool = False

    def load(self) -> Callable[..., Any]:
        """What runs this command; its module is imported when it does."""
        module, name = self.target.split(":")
        return described(module, name)


def fit_options_last(args: list[str]) -> list[str]:
    """`FILE -- --key value`: what stands behind `--` are the options of every fit."""
    if "--" not in args:
        return args
    cut = args.index("--")
    return [*args[:cut], "--fit_options", json.dumps(args[cut + 1 :])]


def runs_first(args: list[str]) -> list[str]:
    """`RUN_A RUN_B --key value`: what stands before the options is one list of runs."""
    cut = next((n for n, arg in enumerate(args) if arg.startswith("-")), len(args))
    return [*([json.dumps(args[:cut])] if cut else []), *args[cut:]]


_STAGES = "regionr1.data.build.stages"
_DATA = "regionr1.cli.data"
_SWEEP = "regionr1.cli.sweep"

VERBS = {
    "fit": "train the crop policy with r-GRPO",
    "validate": "evaluate on the validation split",
    "test": "evaluate on the test split: table of all methods, in MLflow too",
    "predict": "write decision, box and new ranking of each test query, or a result file",
}
"""The four of Lightning, which has a command line of its own."""

GROUPS = {"data": "make, build and check data sets (see `regionr1 data --help`)"}

COMMANDS = {
    "sweep": Command(
        "search settings; `sweep best` writes the best as a config, `sweep report` shows all",
        f"{_SWEEP}:Sweep",
        fit_options_last,
    ),
    "sweep best": Command("write the best trial's settings as a config", f"{_SWEEP}:Best"),
    "sweep report": Command("print what a study found and log it anew", f"{_SWEEP}:Report"),
    "compare": Command(
        "what runs were set differently and what it changed on the same test queries",
        "regionr1.tracking.tested_runs:compare",
        runs_first,
    ),
    "report": Command(
        "tested runs as one HTML page: tables, decisions, queries before and after",
        "regionr1.tracking.report:report",
        runs_first,
    ),
    "export": Command(
        "a trained policy as an MLflow model and as a folder for RegionReranker",
        "regionr1.serve.export:export",
    ),
    "serve": Command(
        "answer requests over HTTP with an exported policy", "regionr1.serve.server:serve"
    ),
    "recipes": Command(
        "list what can be named after -c and `sweep`; `recipes copy NAME` writes one here",
        "regionr1.cli.recipes:recipes",
        bare=True,
    ),
    "recipes copy": Command("copy a recipe or a sweep", "regionr1.cli.recipes:copy"),
    "completion": Command(
        "print a script for the Tab key: `completion bash`",
        "regionr1.cli.completion:completion",
    ),
    "upload": Command(
        "send what a run logged while its tracking server was away",
        "regionr1.tracking.spool:upload",
    ),
    "data builtin": Command(
        "write the built-in benchmark: scenes, questions, a knowledge base",
        "regionr1.builtin.benchmark:write_benchmark",
    ),
    "data builtin-premise": Command(
        "check that the built-in benchmark has a decision and boxes to learn",
        "regionr1.builtin.premise:builtin_premise",
    ),
    "data inspect": Command("say what a folder of published files holds", f"{_DATA}:inspect"),
    "data prepare": Command("embed, index, pool, shards and verify at once", f"{_STAGES}:Prepare"),
    "data embed": Command("embed the knowledge base and the queries", f"{_STAGES}:Embed"),
    "data index": Command("build the FAISS index over the knowledge base", f"{_STAGES}:Index"),
    "data pool": Command("retrieve or import every query's candidates", f"{_STAGES}:Pool"),
    "data shards": Command("write WebDataset shards", f"{_STAGES}:Shards"),
    "data add-scorer": Command("add another scorer's embeddings to shards", f"{_STAGES}:AddScorer"),
    "data verify": Command("check every shard against its index", f"{_DATA}:verify"),
    "data describe": Command("say what shards hold, from their index", f"{_DATA}:describe"),
    "data premise": Command("measure what there is to win by cropping", f"{_DATA}:premise"),
    "data answers": Command("score the answers of a reader", "regionr1.cli.answers:answers"),
}


def names(group: str = "") -> list[str]:
    """The words that may come first, or those that may follow a group."""
    if group:
        return [name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")]
    return [*VERBS, *GROUPS, *(name for name in COMMANDS if " " not in name)]


def table(group: str = "") -> str:
    """The commands and what they do, a line each."""
    if group:
        about = {name: COMMANDS[f"{group} {name}"].about for name in names(group)}
    else:
        ours = {name: COMMANDS[name].about for name in names() if name in COMMANDS}
        about = VERBS | GROUPS | ours
    width = max(map(len, about))
    return "".join(f"  {name:<{width}}  {text}\n" for name, text in about.items())
