"""What a run says about its making: commit, environment, fingerprints, seeds, machine."""

import json
import subprocess
from pathlib import Path

import pytest
from quickstart_run import options, runs
from tiny_command import CONFIG, only_run, run

from regionr1.cli.main import main
from regionr1.errors import UserError
from regionr1.tracking.callbacks.provenance import git_tags
from regionr1.tracking.callbacks.system_metrics import SystemMetrics


def git(folder: Path, *args: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@localhost")
    subprocess.run(["git", "-C", folder, *identity, *args], check=True, capture_output=True)


def test_commit_and_dirty_flag(tmp_path: Path) -> None:
    assert git_tags(tmp_path) == {}
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "one")
    clean = git_tags(tmp_path)
    assert len(clean["mlflow.source.git.commit"]) == 40 and clean["git.dirty"] == "no"
    (tmp_path / "code.py").write_text("2")
    assert git_tags(tmp_path) == {**clean, "git.dirty": "yes"}


def test_a_run_logs_environment_seeds_and_system_metrics(workspace: Path) -> None:
    (workspace / "run.yaml").write_text(CONFIG)
    run("fit", "-c", "run.yaml", "--seed_everything", 7, "--system_metrics.every_s", 0.05)
    _, found = only_run(workspace)
    assert found.data.params["seed_everything"] == "7"
    folder = workspace / "mlruns" / "regionr1" / found.info.run_id / "artifacts"
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["world_size"] == 1
    assert environment["python"].startswith("3.")
    assert found.data.metrics["system/cpu_utilization_percentage"] >= 0
    assert found.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert 0 < found.data.metrics["val/s_per_query"] < 10
    with pytest.raises(UserError, match="at least 0"):
        SystemMetrics(every_s=-1)


def test_fingerprints_of_data_and_scorer(workspace, builtin_shards, tiny_policy) -> None:
    args = options(builtin_shards, tiny_policy, steps=1)
    assert main(["fit", *args, "--data.seed", "3", "--model.seed", "4"]) == 0
    _, (found,) = runs(workspace)
    tags, params = found.data.tags, found.data.params
    index = json.loads((builtin_shards / "train.index.json").read_text())
    assert tags["scorer.fingerprint"] == index["scorer_fingerprint"]
    assert len(tags["data.train"]) == 16 and tags["data.train"] != tags["data.val"]
    assert (params["data.seed"], params["model.seed"]) == ("3", "4")
    inputs = {i.dataset.name: i for i in found.inputs.dataset_inputs}
    assert set(inputs) == {f"{builtin_shards.name}/train", f"{builtin_shards.name}/val"}
    train = inputs[f"{builtin_shards.name}/train"]
    assert train.dataset.digest == tags["data.train"] and train.tags[0].value == "training"
    assert json.loads(train.dataset.profile)["num_rows"] == index["n_samples"]

    # Each setting once, by the names of the options, and none that does nothing here.
    assert (params["model.policy.lora_rank"], params["data.batch_size"]) == ("8", "3")
    assert (params["model.decision"], params["trainer.max_steps"]) == ("exact", "1")
    assert params["model.optimizer"] == "torch.optim.AdamW" and "model.optimizer.lr" in params
    assert not [k for k in params if k.startswith(("model.loss.", "trainer.logger", "gallery"))]
    assert not {"model.crop_prior.region_share", "model.advantage.baseline"} & set(params)
    assert len({k.lower() for k in params}) == len(params) < 60

    (model,) = found.outputs.model_outputs
    client, _ = runs(workspace)
    model = client.get_logged_model(model.model_id)
    assert (model.source_run_id, model.name) == (found.info.run_id, "adapter")
    assert model.params["model.policy.lora_rank"] == "8"
    kind = client.get_experiment(found.info.experiment_id).tags["mlflow.experimentKind"]
    assert kind == "custom_model_development", "opens on the runs, not on traces"
