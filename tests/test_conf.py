"""Every file in conf/ parses against the real command line."""

from pathlib import Path

import pytest
import yaml
from checkout import CONF

from regionr1.cli import fit as lightning_cli
from regionr1.config_errors import check_config_files
from regionr1.scorers.load import scorer_parser

BASE = [CONF / "base.yaml", CONF / "builtin.yaml"]
RECIPES = [CONF / "quickstart.yaml", CONF / "paper.yaml"]
STACKS = [
    [*BASE, RECIPES[0]],
    [*BASE, RECIPES[0], CONF / "swept.yaml"],
    *([BASE[0], CONF / f"{data}.yaml", RECIPES[1]] for data in ("evqa", "infoseek")),
    *([*BASE, RECIPES[0], debug] for debug in sorted((CONF / "debug").glob("*.yaml"))),
]


SCORERS = sorted((CONF / "scorer").glob("*.yaml"))


def test_no_config_is_left_out() -> None:
    assert {path for stack in STACKS for path in stack} | {*SCORERS} == set(CONF.rglob("*.yaml"))


@pytest.mark.parametrize("path", SCORERS, ids=lambda path: path.stem)
def test_scorer_parses_and_is_pinned(path: Path) -> None:
    parsed = scorer_parser().parse_object({"scorer": yaml.safe_load(path.read_text())})
    assert len(parsed.scorer.init_args.revision) == 40
    assert parsed.scorer.init_args.trust_remote_code is False  # consent is the user's to give


@pytest.mark.parametrize(
    "stack", STACKS, ids=lambda stack: "-".join(path.stem for path in stack[1:])
)
def test_config_parses(stack: list[Path], capsys) -> None:
    args = [part for path in stack for part in ("-c", str(path))]
    check_config_files(args)
    with pytest.raises(SystemExit) as caught:
        lightning_cli.run(["fit", *args, "--print_config"])
    assert caught.value.code in (None, 0)
    assert "group_size: 8" in capsys.readouterr().out
