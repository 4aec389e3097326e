"""Every file in conf/ and sweeps/ is read and built by the real command line, not only parsed.

Hub models are tiny ones of the same architecture, found under the ids and commits that the files
name. What no machine without four GPUs can build is set aside by name in `HERE`.
"""

import re
from pathlib import Path

import pytest
import yaml
from checkout import CONF, ROOT
from hub_models import save_encoder
from made import Made
from tiny_policy import build_tiny_policy

from regionr1.algorithm.advantages import AdvantageOptions
from regionr1.algorithm.answers import Decision
from regionr1.algorithm.boxes import CropPrior
from regionr1.algorithm.rewards import RewardWeights
from regionr1.cli import fit as lightning_cli
from regionr1.config_errors import check_config_files
from regionr1.errors import UserError
from regionr1.policy.tokens import FORMS
from regionr1.scorers.hub import HubScorer
from regionr1.scorers.load import load_scorer, scorer_parser
from regionr1.sweep.plan import option, read_plan
from regionr1.tracking.callbacks.profiler import StageProfiler

BASE = [CONF / "base.yaml", CONF / "builtin.yaml"]
RECIPES = [CONF / "quickstart.yaml", CONF / "paper.yaml"]
STACKS = [
    [*BASE, RECIPES[0]],
    *([BASE[0], CONF / f"{data}.yaml", RECIPES[1]] for data in ("evqa", "infoseek", "own")),
    *([*BASE, RECIPES[0], debug] for debug in sorted((CONF / "debug").glob("*.yaml"))),
]
SCORERS = sorted((CONF / "scorer").glob("*.yaml"))
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
HERE = ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
STAND_INS = {"openai/clip-vit-large-patch14": "clip", "BAAI/EVA-CLIP-8B": "eva"}


class BuildOnly(lightning_cli.RegionCLI):
    """The command line of `fit`: trainer, model and data module are made, and nothing is run."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.fixture
def hub(made: Made, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache holds the stand-ins; the working folder has conf/ and sweeps/ as a clone."""
    cache = made.once("hub", fill_cache)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    modules = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(modules, str(workspace / "modules"))
    for name in ("conf", "sweeps"):
        (workspace / name).symlink_to(ROOT / name)


def fill_cache(cache: Path) -> None:
    """Writes a tiny model for every hub id and commit that conf/ names."""
    policy = yaml.safe_load(RECIPES[1].read_text())["model"]["policy"]["init_args"]
    build_tiny_policy(snapshot(cache, policy))
    for path in SCORERS:
        named = yaml.safe_load(path.read_text())["init_args"]
        save_encoder(snapshot(cache, named), STAND_INS[named["model"]])


def snapshot(cache: Path, named: dict) -> Path:
    """Where the hub's cache keeps a model at a commit."""
    folder = cache / f"models--{named['model'].replace('/', '--')}" / "snapshots"
    folder.mkdir(parents=True)
    return folder / named["revision"]


def consenting(workspace: Path) -> Path:
    """conf/scorer/eva_clip_8b.yaml with the consent that only a user may give."""
    scorer = yaml.safe_load((CONF / "scorer" / "eva_clip_8b.yaml").read_text())
    assert scorer["init_args"]["trust_remote_code"] is False
    scorer["init_args"]["trust_remote_code"] = True
    path = workspace / "consented.yaml"
    path.write_text(yaml.safe_dump(scorer))
    return path


def build(args: list[str]) -> BuildOnly:
    check_config_files(args)
    return lightning_cli.run(args, cli_class=BuildOnly)


def test_no_config_is_left_out() -> None:
    assert {path for stack in STACKS for path in stack} | {*SCORERS} == set(CONF.rglob("*.yaml"))


@pytest.mark.parametrize("path", SCORERS, ids=lambda path: path.stem)
def test_scorer_is_pinned_and_built(path: Path, hub: None, workspace: Path) -> None:
    parsed = scorer_parser().parse_object({"scorer": yaml.safe_load(path.read_text())})
    assert len(parsed.scorer.init_args.revision) == 40
    assert parsed.scorer.init_args.trust_remote_code is False  # consent is the user's to give
    if path.stem == "eva_clip_8b":
        with pytest.raises(UserError, match="consent with trust_remote_code"):
            load_scorer(str(path))
        path = consenting(workspace)
    scorer = load_scorer(str(path))
    assert isinstance(scorer, HubScorer) and scorer.dim == 8
    assert scorer.fingerprint().split("-")[-3:-1] == [
        parsed.scorer.init_args.fit,
        parsed.scorer.init_args.dtype,
    ]


@pytest.mark.parametrize(
    "stack", STACKS, ids=lambda stack: "-".join(path.stem for path in stack[1:])
)
def test_config_is_built(stack: list[Path], hub: None, workspace: Path) -> None:
    args = ["fit", *(part for path in stack for part in ("-c", str(path)))]
    if RECIPES[1] in stack:
        scorer = ["--model.reranker.init_args.scorer", str(consenting(workspace))]
        args += [*HERE, *scorer]
    cli = build(args)
    written: dict = {}
    for path in stack:  # the later file wins, key by key of each section
        for section, values in yaml.safe_load(path.read_text()).items():
            if isinstance(values, dict):
                written.setdefault(section, {}).update(values)
    assert str(cli.datamodule.folder) == written["data"]["shards"]
    assert cli.datamodule.batch_size == written["data"]["batch_size"]
    assert cli.model.group_size == written["model"]["group_size"] > 1
    trained = [p for p in cli.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) > 1000
    optimizer = cli.model.optimizer(trained)
    assert optimizer.defaults["lr"] == written["model"]["optimizer"]["init_args"]["lr"]
    assert (cli.model.scheduler is not None) == ("scheduler" in written["model"])
    if cli.model.scheduler is not None:
        first = cli.model.scheduler(optimizer).get_last_lr()[0]
        assert 0 < first < optimizer.defaults["lr"], "a warm-up"
    assert isinstance(cli.trainer.profiler, StageProfiler) == ("profile" in stack[-1].stem)
    if not written["trainer"].get("fast_dev_run"):
        assert cli.trainer.max_steps == written["trainer"]["max_steps"]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_is_built_at_both_ends(path: Path, hub: None, workspace: Path) -> None:
    """Every parameter at the first and at the last of its values, all of them at once."""
    plan = read_plan(path.relative_to(ROOT))
    for end in (0, -1):
        args = list(plan.fit_arguments({}))
        for parameter in plan.space:
            value = parameter.samples()[end]
            value = int(value) if parameter.kind == "int" else value
            for key in parameter.keys:
                args += option(key, value)
        assert build(args).model.group_size in (4, 8, 16)
    plan.make_sampler()
    plan.make_pruner()


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
