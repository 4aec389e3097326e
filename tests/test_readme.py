"""README.md and BENCHMARKS.md say what the code does: commands parse, files exist."""

import ast
import functools
import inspect
import re
import shlex
from pathlib import Path

import pytest
import yaml
from checkout import ROOT

from regionr1.algorithm.advantages import AdvantageOptions
from regionr1.algorithm.boxes import CropPrior
from regionr1.algorithm.decision import EstimatorOptions
from regionr1.algorithm.losses import LossOptions
from regionr1.algorithm.objective import Objective
from regionr1.algorithm.rewards import RewardWeights
from regionr1.cli import fit as lightning_cli
from regionr1.cli.commands import COMMANDS, GROUPS, VERBS, Command
from regionr1.cli.main import dispatch
from regionr1.cli.resume_option import take_option
from regionr1.config_errors import check_config_files
from regionr1.errors import UserError
from regionr1.recipes import expand

PAGES = ("README.md", "BENCHMARKS.md")
RECIPE = ["-c", "quickstart"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


def commands() -> list[list[str]]:
    """Every command line of the pages' shell blocks, once."""
    lines = [
        line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()
    ]
    found = {tuple(shlex.split(line, comments=True)): None for line in lines if line.strip()}
    return [list(command) for command in found]


def ids(command: list[str]) -> str:
    return " ".join(command[:3])


OURS = [c[1:] for c in commands() if Path(c[0]).name == "regionr1"]
OTHERS = [c for c in commands() if Path(c[0]).name != "regionr1"]


def variants() -> list[list[str]]:
    """Options of every `NAME: OPTIONS` that is shown for scripts/experiment, once."""
    shown = [part for command in OTHERS for part in command]
    shown += re.findall('"(.+: .+)"', (ROOT / "scripts" / "experiment").read_text().split('"""')[1])
    found = (re.fullmatch(r"[\w.-]+: (--.+)", text) for text in dict.fromkeys(shown))
    return [shlex.split(match[1]) for match in found if match]


def check_options(model: dict) -> None:
    """What options say to each other, which printing a config does not check."""
    RewardWeights(**model["reward"])
    CropPrior(**model["crop_prior"])
    Objective(
        decision=model["decision"],
        kl_weight=model["kl_weight"],
        kl=model["kl"],
        estimator=EstimatorOptions(**model["estimator"]),
        advantage=AdvantageOptions(**model["advantage"]),
        loss=LossOptions(**model["loss"]),
    )


FITS = [["fit", *RECIPE, *options] for options in variants()]


@pytest.mark.parametrize("args", [*(a for a in OURS if a[0] in VERBS), *FITS], ids=ids)
def test_lightning_commands_parse(args: list[str], monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    # A resumed run brings its config: the recipe stands in for it.
    run, rest = take_option(args[1:], "--resume")
    full = expand([args[0], *(RECIPE if run else []), *rest])
    check_config_files(full)
    with pytest.raises(SystemExit) as caught:
        lightning_cli.run([*full, "--print_config"])
    assert caught.value.code in (None, 0)
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    assert model["group_size"] > 1
    check_options(model)


@pytest.fixture
def ran(monkeypatch) -> list[object]:
    """What the commands would have run: their options are read, and nothing is done."""
    ran: list[object] = []

    def load(self: Command):
        command = load_it(self)
        if inspect.isclass(command):
            monkeypatch.setattr(command, "run", lambda stage: ran.append(stage))
            return command

        @functools.wraps(command)
        def parsed(*args, **kwargs) -> None:
            ran.append(command)

        return parsed

    load_it = Command.load
    monkeypatch.setattr(Command, "load", load)
    return ran


@pytest.mark.parametrize("args", [a for a in OURS if a[0] not in VERBS], ids=ids)
def test_other_commands_parse(args: list[str], ran, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Path, "exists", lambda path: True)  # of result files and indices
    dispatch(args)
    assert len(ran) == 1


def test_a_command_with_a_wrong_option_would_be_noticed(ran) -> None:
    with pytest.raises(UserError, match="--roof"):
        dispatch(["data", "shards", "--roof", "evqa", "--out", "x"])
    assert not ran


def test_every_command_is_known() -> None:
    assert all(args[0] in {*VERBS, *GROUPS, *COMMANDS} for args in OURS)
    assert {Path(c[1] if c[0] == "python" else c[0]).name for c in map(unwrap, OTHERS)} <= {
        *(path.name for path in (ROOT / "scripts").iterdir()),
        *("mlflow", "curl", "cp", "pip"),
    }


def unwrap(command: list[str]) -> list[str]:
    return [Path(command[0]).name if command[0].startswith(".venv/") else command[0], *command[1:]]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_it_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    named = re.findall(r"(?:regionr1|conf|sweeps|scripts|tests)/[\w./-]*\w/?", text)
    named += re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert len(named) > 3
    # mlruns/regionr1/... is a run's folder, not the package.
    missing = {name for name in named if not (ROOT / name).exists()}
    assert missing <= {"regionr1/RUN_ID/artifacts/adapter"}


def test_every_config_and_script_is_mentioned() -> None:
    text = (ROOT / "README.md").read_text()
    files = [*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "sweeps").glob("*.yaml")]
    for path in sorted(files):
        assert path.relative_to(ROOT).as_posix() in text
    pages = text + (ROOT / "BENCHMARKS.md").read_text()
    for path in (ROOT / "scripts").iterdir():
        assert path.suffix or f"scripts/{path.name}" in pages, path


def test_python_blocks_are_python() -> None:
    found = blocks("README.md", "python")
    assert len(found) >= 3
    for block in found:
        ast.parse(block)


def test_every_shipped_drawing_set_has_its_notice() -> None:
    folder = ROOT / "regionr1" / "builtin" / "artwork"
    notice, readme = (folder / "NOTICE").read_text(), (ROOT / "README.md").read_text()
    for path in folder.glob("*.zip"):
        assert path.name in notice and f"`{path.stem}`" in readme
    for words in ("CC BY 4.0", "MIT License", "Apache License, Version 2.0", "BSD 3-Clause"):
        assert words in notice


def test_notice_names_the_packages_that_were_drawn() -> None:
    source = (ROOT / "scripts" / "make_artwork").read_text()
    notice = (ROOT / "regionr1" / "builtin" / "artwork" / "NOTICE").read_text()
    packages = re.findall(r'"(@iconify-json/[\w-]+)", "([\d.]+)"', source)
    assert len(packages) == 5 + 13  # drawn, and studied by the vision tower only
    for package, version in packages:
        assert f"{package} {version}" in notice
