"""Every file in conf/ parses against the real command line."""

import re
from pathlib import Path

import pytest
import yaml
from checkout import CONF

from regionr1.algorithm.advantages import AdvantageOptions
from regionr1.algorithm.answers import Decision
from regionr1.algorithm.boxes import CropPrior
from regionr1.algorithm.rewards import RewardWeights
from regionr1.cli import fit as lightning_cli
from regionr1.config_errors import check_config_files
from regionr1.policy.tokens import FORMS
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


def test_the_papers_recipe_is_the_papers() -> None:
    """Region-R1, arXiv 2604.05268: Eqs. 5 to 9, appendix B and table 10."""
    conf = yaml.safe_load((CONF / "paper.yaml").read_text())
    model, policy = conf["model"], conf["model"]["policy"]["init_args"]
    assert (model["group_size"], model["decision"]) == (8, "balanced")
    advantage = AdvantageOptions(**model["advantage"])
    assert (advantage.scale_rewards, advantage.stratified) == ("group", 0.0)
    reward = RewardWeights(**model["reward"])
    assert reward.variant == "paper" and (reward.right_full, reward.positives) == (1.0, "max")
    assert (reward.mrr, reward.ndcg, reward.rank, reward.margin) == (0.2, 0.2, 0.2, 0.4)
    prior = CropPrior(**model["crop_prior"])
    assert prior.padding == prior.bonus(0) == 0
    assert [policy[f"lora_{name}"] for name in ("rank", "alpha", "dropout")] == [8, 32, 0.1]
    assert policy["max_new_tokens"] == 256 and conf["data"]["batch_size"] == 4
    assert model["optimizer"]["init_args"] == {"lr": 5e-5, "weight_decay": 0.0}
    schedule = model["scheduler"]["init_args"]
    assert schedule == {"warmup_steps": 50, "total_steps": conf["trainer"]["max_steps"]}
    scorer = yaml.safe_load((CONF / "scorer" / "eva_clip_8b.yaml").read_text())["init_args"]
    assert scorer["text"] == "sum"


def test_the_papers_system_message_shows_answers_that_are_read() -> None:
    conf = yaml.safe_load((CONF / "paper.yaml").read_text())
    policy = conf["model"]["policy"]["init_args"]
    form = FORMS[policy["answer"]]
    shown = [line for line in policy["system"].splitlines() if line.startswith("{")]
    full, region = (form.parse(line.replace("x1, y1, x2, y2", "1, 2, 3, 4")) for line in shown)
    assert full.decision is Decision.FULL and region.box_seen == (1.0, 2.0, 3.0, 4.0)
    assert shown[0] == form.full and shown[1].startswith(form.region_prefix)
    assert "tool_call" not in policy["prompt"] and "{question}" in policy["prompt"]


def test_every_deviation_from_the_paper_has_a_reason() -> None:
    """A name that a line of the recipe refers to stands in the list above, and says why."""
    text = (CONF / "paper.yaml").read_text()
    named = {m[1] for m in re.finditer(r"^#   (\w+) {2,}\S", text, re.MULTILINE)}
    used = {m[1] for m in re.finditer(r"# (steps|[a-z]+_[a-z0-9]+)$", text, re.MULTILINE)}
    assert used and used <= named, used - named
