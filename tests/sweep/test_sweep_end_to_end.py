"""`regionr1 sweep` as a user runs it: real trials in fresh processes, then the best by hand."""

import shutil
from pathlib import Path

import pytest
import yaml
from quickstart_run import options, parts, runs

from regionr1.cli.main import main

SPACE = {
    "model.group_size": {"type": "categorical", "choices": [2, 4]},
    "model.crop_prior.padding": {"type": "float", "low": 0.0, "high": 0.2, "step": 0.1},
}


@pytest.mark.slow
def test_sweep_best_and_the_same_by_hand(workspace, builtin_shards, tiny_policy, capsys) -> None:
    args = options(Path(shutil.copytree(builtin_shards, workspace / "shards")), tiny_policy)
    configs, fixed = parts(args)
    for name in SPACE:
        fixed.pop(name, None)
    sweep = {
        "study": "tiny",
        "configs": configs,
        "set": fixed,
        "objectives": [{"metric": "val/ndcg", "direction": "maximize"}],
        "space": SPACE,
        "enqueue": [{"model.group_size": 4, "model.crop_prior.padding": 0.1}],
        "sampler": {"class_path": "optuna.samplers.RandomSampler", "init_args": {"seed": 1}},
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep))
    command = ["sweep", "sweep.yaml", "--n-trials", "2", "--", "--trainer.log_every_n_steps", "1"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "2 complete, 0 pruned, 0 fail" in printed
    assert Path("mlruns/sweeps/tiny/0000.log").stat().st_size > 0

    assert main(["sweep", "best", "sweep.yaml", "--out", "conf/best.yaml"]) == 0
    text = Path("conf/best.yaml").read_text()
    best = yaml.safe_load(text)
    number = int(text.split()[2])
    _, found = runs(workspace)
    (trial,) = [run for run in found if run.data.tags.get("sweep.trial") == str(number)]
    assert str(best["model"]["group_size"]) == trial.data.params["model.group_size"]
    assert trial.info.run_id in text

    stack = [part for path in [*configs, "conf/best.yaml"] for part in ("-c", path)]
    assert main(["fit", *stack]) == 0
    _, found = runs(workspace)
    (by_hand,) = [r for r in found if not any(tag.startswith("sweep.") for tag in r.data.tags)]
    measured = {
        key: value
        for key, value in trial.data.metrics.items()
        if not key.startswith("system/") and not key.endswith("s_per_query")
    }
    assert len(measured) > 20 and "val/ndcg" in measured
    assert {key: by_hand.data.metrics[key] for key in measured} == pytest.approx(
        measured, abs=0, rel=0, nan_ok=True
    ), "to the last digit"

    assert main(["sweep", "report", "sweep.yaml"]) == 0
    assert f"trial {number}" in capsys.readouterr().out
    for wrong in (["best", "sweep.yaml", "--trial", "7"], ["best", "gone.yaml"], ["gone.yaml"]):
        assert main(["sweep", *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
