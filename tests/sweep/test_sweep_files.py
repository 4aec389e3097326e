"""Sweep files: those in sweeps/ fit the real command line, and mistakes are one sentence."""

from pathlib import Path

import optuna
import pytest
import yaml
from checkout import ROOT

from regionr1.cli.check_sweep import check_plan
from regionr1.errors import UserError
from regionr1.sweep.plan import read_plan
from regionr1.sweep.space import Parameter, grid, overrides, read_space, suggest

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
PLAN = """\
study: colours
configs: [run.yaml]
objectives:
  - {metric: val/score, direction: maximize}
space:
  model.group_size: {type: int, low: 2, high: 8}
  model.kl_weight: {type: float, low: 0.001, high: 0.1, log: true}
  model.decision: {type: categorical, choices: [balanced, on_policy]}
  model.crop_prior.region_share:
    type: float
    low: 0.25
    high: 0.75
    when: {model.decision: balanced}
enqueue:
  - {model.group_size: 8, model.kl_weight: 0.1, model.decision: on_policy}
"""


@pytest.fixture
def plan_file(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    conf = [yaml.safe_load((ROOT / "conf" / f"{n}.yaml").read_text()) for n in ("base", "builtin")]
    policy = {"class_path": "regionr1.policy.crop_policy.CropPolicy"}
    reranker = {"class_path": "regionr1.scorers.reranker.RewardReranker"}
    config = {**conf[0], **conf[1], "model": {"policy": policy, "reranker": reranker}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    path = tmp_path / "sweep.yaml"
    path.write_text(PLAN)
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_sweep_fits_the_command_line(path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    plan = read_plan(path.relative_to(ROOT))
    assert check_plan(plan)["experiment_name"] == "regionr1"
    assert plan.study == path.stem and (plan.enqueue or plan.is_grid)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in plan.enqueue:
        study.enqueue_trial(point)
        assert suggest(plan.space, study.ask()) == point
    for _ in range(5):
        assert set(suggest(plan.space, study.ask())) <= {p.name for p in plan.space}


def test_the_first_setting_is_the_papers(monkeypatch) -> None:
    """What conf/paper.yaml and the defaults say, wherever a sweep searches it."""
    monkeypatch.chdir(ROOT)
    paper = yaml.safe_load((ROOT / "conf" / "paper.yaml").read_text())["model"]
    point, *_ = read_plan(Path("sweeps/group_kl_prior.yaml")).enqueue
    assert point["model.group_size"] == paper["group_size"]
    assert point["model.kl_weight"] == paper["kl_weight"]
    assert point["model.decision"] == paper["decision"]
    (point,) = read_plan(Path("sweeps/reward_weights.yaml")).enqueue
    for part in ("mrr", "ndcg", "rank", "margin"):
        assert point[f"model.reward.{part}"] == paper["reward"][part]
    point, *_ = read_plan(Path("sweeps/lora_lr.yaml")).enqueue
    assert point["model.policy.lora_rank"] == paper["policy"]["init_args"]["lora_rank"]
    assert point["model.optimizer.lr"] == paper["optimizer"]["init_args"]["lr"]
    point, *_ = read_plan(Path("sweeps/decision.yaml")).enqueue
    assert point["model.decision"] == paper["decision"]
    assert point["model.advantage.scale_rewards"] == paper["advantage"]["scale_rewards"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("low: 2, high: 8", "low: 8, high: 2", ["sweep.yaml:6", "8 to 2 is empty"]),
        ("low: 2, high: 8", "low: 2.5, high: 8", ["sweep.yaml:6", "low", "int", "2.5"]),
        ("low: 0.001", "low: 1e-3", ["sweep.yaml:7", "'1e-3'", "write 1.0e-3"]),
        ("low: 0.001", "low: 0", ["sweep.yaml:7", "low above 0"]),
        ("type: int, ", "", ["sweep.yaml:6", "needs a type", "categorical"]),
        ("type: int, low", "type: int, choices", ["sweep.yaml:6", "choices", "low"]),
        ("choices: [balanced, on_policy]", "choices: []", ["sweep.yaml:8", "at least one"]),
        ("choices: [balanced, on_policy]", "choices: [a, a]", ["sweep.yaml:8", "twice"]),
        ("when: {model.decision: balanced}", "when: {model.x: 1}", ["sweep.yaml:9", "model.x"]),
        ("when: {model.decision: balanced}", "when: {model.decision: on}", ["never is"]),
        ("8, model.kl_weight", "9, model.kl_weight", ["sweep.yaml:14", "entry 1", "9"]),
        ("decision: on_policy}", "decision: balanced}", ["lacks model.crop_prior.region_share"]),
        ("{model.group_size: 8, ", "{", ["sweep.yaml:14", "lacks model.group_size"]),
        ("direction: maximize", "direction: up", ["sweep.yaml:3", "maximize or minimize", "up"]),
        ("study: colours\n", "", ["study is missing"]),
        ("study: colours", "study: colours\nspeed: 3", ["sweep.yaml:2", "speed is unknown"]),
        ("configs: [run.yaml]", "configs: [gone.yaml]", ["gone.yaml", "No such file"]),
        ("study: colours", "study: colours\nsampler: optuna.samplers.Gone", ["Gone", "sampler"]),
        ("study: colours", "study: colours\nset: {model.kl_weight: 1}", ["fixes model.kl_weight"]),
        ("study: colours", "study: colours\nsampler: optuna.samplers.GridSampler", ["enqueue"]),
        ("study: colours", "study: colours\nn_trials: 0", ["sweep.yaml:2", "at least 1"]),
        (
            "study: colours",
            "study: colours\npruner: {class_path: optuna.pruners.MedianPruner, init_args: [1]}",
            ["sweep.yaml:2", "pruner must hold class_path"],
        ),
    ],
)
def test_a_mistake_is_one_sentence(plan_file: Path, old: str, new: str, words) -> None:
    assert old in PLAN
    plan_file.write_text(PLAN.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        read_plan(plan_file)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_pruning_several_objectives_is_refused(plan_file: Path) -> None:
    two = PLAN.replace("space:", "  - {metric: time/x, direction: minimize}\nspace:")
    plan_file.write_text(two)
    assert read_plan(plan_file).directions == ("maximize", "minimize")
    plan_file.write_text(two + "pruner: optuna.pruners.MedianPruner\n")
    with pytest.raises(UserError, match="one objective only"):
        read_plan(plan_file)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("model.group_size", "model.grup_size", ["sweep.yaml:6", "model.grup_size", "unknown"]),
        ("model.group_size: {type: int, low: 2, high: 8}",
         "model.group_size: {type: categorical, choices: [8, many]}",
         ["sweep.yaml:6", "group_size", "a whole number", "many"]),
        ("choices: [balanced, on_policy]", "choices: [balanced, on_policy, exactly]",
         ["sweep.yaml:8", "exactly"]),
        ("configs: [run.yaml]", "configs: [run.yaml]\nset: {trainer.max_stepz: 3}",
         ["trainer.max_stepz"]),
        ("configs: [run.yaml]", "configs: [run.yaml]\nset: {trainer.logger: false}",
         ["logged to MLflow"]),
    ],
)  # fmt: skip
def test_what_the_command_line_refuses(plan_file: Path, old: str, new: str, words) -> None:
    assert old in PLAN
    plan_file.write_text(PLAN.replace(old, new))
    plan = read_plan(plan_file)
    with pytest.raises(UserError) as caught:
        check_plan(plan)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_arguments_of_a_trial(plan_file: Path) -> None:
    plan = read_plan(plan_file, {"trainer.max_steps": 3, "model.policy.revision": None})
    assert plan.fit_arguments({"model.group_size": 4, "model.decision": "balanced"}) == [
        *("fit", "-c", "run.yaml", "--trainer.max_steps", "3", "--model.policy.revision", "null"),
        *("--model.group_size", "4", "--model.decision", "balanced"),
    ]


def test_conditional_parameters_are_asked_for_where_they_count(plan_file: Path) -> None:
    plan = read_plan(plan_file)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [suggest(plan.space, study.ask()) for _ in range(30)]
    for values in trials:
        assert ("model.crop_prior.region_share" in values) == (
            values["model.decision"] == "balanced"
        )
        assert 2 <= values["model.group_size"] <= 8 and 0.001 <= values["model.kl_weight"] <= 0.1
    assert {values["model.decision"] for values in trials} == {"balanced", "on_policy"}


def test_one_parameter_may_set_several_keys_and_a_grid_holds_all() -> None:
    space = read_space({
        "seed": {"type": "categorical", "choices": [1, 2], "keys": ["seed_everything", "d.s"]},
        "x": {"type": "float", "low": 0.0, "high": 0.3, "step": 0.1},
    })  # fmt: skip
    assert overrides(space, {"seed": 2}) == {"seed_everything": 2, "d.s": 2}
    points = list(grid(space))
    assert len(points) == 8 and points[-1] == {"seed": 2, "x": pytest.approx(0.3)}
    with pytest.raises(UserError, match="data.seed is set by another"):
        read_space({
            "data.seed": {"type": "int", "low": 0, "high": 1},
            "s": {"type": "int", "low": 0, "high": 1, "keys": ["data.seed"]},
        })  # fmt: skip
    with pytest.raises(UserError, match="continuous"):
        Parameter("x", ("x",), "float", 0, 1).grid()


@pytest.mark.parametrize(
    "sampler",
    [
        "optuna.samplers.RandomSampler",
        {"class_path": "optuna.samplers.CmaEsSampler", "init_args": {"seed": 1}},
        {"class_path": "optuna.samplers.TPESampler", "init_args": {"n_startup_trials": 3}},
    ],
)
def test_samplers_by_class_path(plan_file: Path, sampler) -> None:
    plan_file.write_text(PLAN + yaml.safe_dump({"sampler": sampler}))
    plan = read_plan(plan_file)
    name = sampler if isinstance(sampler, str) else sampler["class_path"]
    assert type(plan.make_sampler()).__name__ == name.split(".")[-1]


@pytest.mark.parametrize(
    "pruner",
    [
        "optuna.pruners.HyperbandPruner",
        {"class_path": "optuna.pruners.SuccessiveHalvingPruner", "init_args": {"min_resource": 5}},
        {"class_path": "optuna.pruners.PatientPruner",
         "init_args": {"patience": 2,
                       "wrapped_pruner": {"class_path": "optuna.pruners.MedianPruner"}}},
    ],
)  # fmt: skip
def test_pruners_by_class_path(plan_file: Path, pruner) -> None:
    plan_file.write_text(PLAN + yaml.safe_dump({"pruner": pruner}))
    name = pruner if isinstance(pruner, str) else pruner["class_path"]
    assert type(read_plan(plan_file).make_pruner()).__name__ == name.split(".")[-1]
