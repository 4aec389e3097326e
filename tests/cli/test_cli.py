"""The command line: help, errors of one sentence, runs, resuming."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from mlflow.exceptions import BAD_REQUEST, MlflowException
from tiny_command import CONFIG, only_run, run

from regionr1.cli.main import main
from regionr1.config_errors import explain
from regionr1.errors import UserError, crossed, sentence
from regionr1.tracking.run_folder import CHECKPOINT_TAG
from regionr1.tracking.spool import SpoolingClient
from regionr1.training import checkpoint as checkpoint_file


@pytest.fixture
def config(workspace: Path) -> Path:
    path = workspace / "run.yaml"
    path.write_text(CONFIG)
    return path


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "regionr1", "--help"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - start
    assert "regionr1 fit" in done.stdout
    assert not {"torch", "lightning", "mlflow"} & {
        line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()
    }
    assert seconds < 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fitt"], ["no command 'fitt'", "did you mean fit?"]),
        (["--config", "x.yaml", "fit"], ["after the command", "fit --config"]),
    ],
)
def test_a_wrong_command_is_one_line(args, words, capsys) -> None:
    assert main(args) == 2
    err = capsys.readouterr().err
    assert err.startswith("regionr1: error: ") and err.count("\n") == 1
    assert all(word in err for word in words)


def test_the_traceback_of_a_data_worker_is_cut_off() -> None:
    text = (
        "Caught UserError in worker 0.\nTraceback ...\nregionr1.errors.UserError: shard 3 is\ncut"
    )
    assert sentence(UserError(text)) == "shard 3 is cut"
    assert str(crossed(RuntimeError(text))) == "shard 3 is cut"
    assert crossed(RuntimeError("Traceback ...\nValueError: shard 3 is\ncut")) is None


@pytest.mark.parametrize(
    ("replace", "by", "words"),
    [
        ("  max_steps: 4", "  max_stepz: 4", ["run.yaml:3", "unknown", "trainer.max_stepz"]),
        ("model:", "modle: 3\nmodel:", ["run.yaml:15", "unknown", "modle"]),
        ("      rank: 2", "      rnk: 2", ["run.yaml:19", "unknown", "model.policy.rnk"]),
        ("      rank: 2", "      rank: two", ["run.yaml:19", "rank", "a whole number", "two"]),
        ("  shards: here", "  batch_size: 2", ["missing", "data.shards"]),
        ("  max_steps: 4", "  max_steps: [4", ["run.yaml:4", "not valid YAML"]),
        (CONFIG, "just text", ["run.yaml", "holds no settings"]),
        (
            "data:",
            "model: {group_size: 3}\ndata:",
            ["run.yaml:20: model is set in line 15 already"],
        ),
    ],
)
def test_a_bad_config_names_key_and_place(config: Path, replace, by, words) -> None:
    config.write_text(CONFIG.replace(replace, by, 1))
    with pytest.raises(UserError) as caught:
        run("fit", "-c", config)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    assert all(word in message for word in words), message
    assert not (config.parent / "mlruns" / "regionr1").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-c", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (["-c", "run.yaml", "--model.grup_size", "3"], ["unknown option", "--model.grup_size"]),
        (["-c", "run.yaml", "--model.group_size", "1"], ["group_size", "at least 2", "1"]),
        (
            ["-c", "run.yaml", "--model.policy.rank", "x"],
            ["model.policy.rank: expected a whole number, got x"],
        ),
        (["-c", "run.yaml", "--trainer.devices", "0"], ["trainer: ", "devices='0'"]),
        (["-c", "run.yaml", "--trainer.max_steps=-5"], ["trainer: ", "max_steps", "-5"]),
        (["-c", "run.yaml", "--ckpt_path", "last"], ["--resume last"]),
        (["--resume", "nothere"], ["no run 'nothere'"]),
        (["--resume", "last"], ["no run", "has a checkpoint"]),
        (["--resume"], ["--resume needs a value"]),
    ],
)
def test_bad_options(config: Path, args, words) -> None:
    with pytest.raises(UserError) as caught:
        run("fit", *args)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "run.yaml:" not in str(caught.value)


def test_an_error_in_a_data_worker_is_one_sentence(config: Path) -> None:
    with pytest.raises(UserError) as caught:
        run("fit", "-c", config, "--data.shards", "broken", "--data.num_workers", 1)
    assert sentence(caught.value).startswith("shard train-000000.tar is truncated")


def test_explain_leaves_other_messages_on_one_line() -> None:
    assert explain("Something\n  odd", []) == "Something odd"


def test_fit_resume_test_predict_are_one_run(config: Path, workspace: Path, capsys) -> None:
    run("fit", "-c", config, "--model.group_size", 4)
    client, first = only_run(workspace)
    run_id = first.info.run_id
    folder = workspace / "mlruns" / "regionr1" / run_id / "checkpoints"
    checkpoint = folder / "step-000004.ckpt"
    assert first.data.tags[CHECKPOINT_TAG] == str(checkpoint)
    state = torch.load(checkpoint, weights_only=True)
    assert state["global_step"] == 4  # the steps after the last multiple of every_n_steps too
    assert set(state["state_dict"]) == {"policy.adapter.weight", "policy.adapter.bias"}
    artifacts = workspace / "mlruns" / "regionr1" / run_id / "artifacts"
    saved = yaml.safe_load((artifacts / "config.yaml").read_text())
    assert saved["model"]["group_size"] == 4 and saved["seed_everything"] == 42
    assert (artifacts / "adapter" / "adapter.pt").is_file()
    assert len(list((artifacts / "images").glob("crops*.png"))) == 2
    assert first.info.status == "FINISHED"

    cli = run("fit", "--resume", run_id, "--trainer.max_steps", 7)
    assert cli.trainer.global_step == 7
    assert cli.model.group_size == 4  # from the run, not the default
    kept = ["best.ckpt", "step-000006.ckpt", "step-000007.ckpt"]
    assert sorted(path.name for path in folder.iterdir()) == kept
    _, resumed = only_run(workspace)
    assert resumed.info.run_id == run_id
    steps = [point.step for point in client.get_metric_history(run_id, "workings/loss")]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    losses = [point.value for point in client.get_metric_history(run_id, "workings/loss")]
    assert losses == sorted(losses, reverse=True)  # went on from where it was

    run("test", "--resume", "last")
    out = capsys.readouterr().out
    assert "CondR@1" in out and "policy" in out
    table = json.loads((artifacts / "test_table.json").read_text())
    assert [row["method"] for row in table] == ["full", "policy"]
    metrics = only_run(workspace)[1].data.metrics
    assert metrics["test/full/recall_at_1"] == 0.0 and metrics["test/policy/recall_at_1"] == 1.0
    assert (artifacts / "config_test.yaml").is_file()
    assert (artifacts / "test_table.csv").is_file() and (artifacts / "test_table.md").is_file()

    run("predict", "--resume", "last", "--predictions.path", "out/p.jsonl")
    lines = (workspace / "out" / "p.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["q0", "q1"]
    run("predict", "--resume", "last", "--format", "trec", "--predictions.path", "out/p.trec")
    assert sorted(path.name for path in (workspace / "out").iterdir()) == [
        *("p.jsonl", "p.trec", "p.trec.qrels")
    ]
    assert (workspace / "out" / "p.trec").read_text().startswith("E-VQA_0 Q0 a 1 0.5 regionr1\n")

    again = workspace / "again.yaml"
    again.write_text((artifacts / "config.yaml").read_text())
    run("fit", "-c", again, "--trainer.max_steps", 1)  # the logged config starts a new run
    assert len(client.search_runs([resumed.info.experiment_id])) == 2

    with pytest.raises(
        UserError, match="started with other settings than now: model.group_size was 4 and is 6"
    ):
        run("fit", "--resume", run_id, "--model.group_size", 6, "--trainer.max_steps", 8)


def test_a_resumed_run_keeps_its_record_until_something_was_done(config, workspace) -> None:
    run("fit", "-c", config)
    _, first = only_run(workspace)
    artifacts = workspace / "mlruns" / "regionr1" / first.info.run_id / "artifacts"
    before = (artifacts / "config.yaml").read_text()
    run("fit", "--resume", "last", "--trainer.log_every_n_steps", 3)  # it has had its 4 steps
    assert (artifacts / "config.yaml").read_text() == before
    run("fit", "--resume", "last", "--trainer.max_steps", 5)
    assert yaml.safe_load((artifacts / "config.yaml").read_text())["trainer"]["max_steps"] == 5


def test_other_data_is_tested_in_a_run_of_its_own(config, workspace, capsys) -> None:
    run("fit", "-c", config)
    client, first = only_run(workspace)
    run("test", "--resume", "last")
    artifacts = workspace / "mlruns" / "regionr1" / first.info.run_id / "artifacts"
    before = (artifacts / "test_table.json").read_text()
    assert not capsys.readouterr().err.count("run of its own")
    run("test", "--resume", "last", "--data.shards", "elsewhere")
    said = f"run {first.info.run_id} was not trained with --data.shards; what this measures is"
    assert said in capsys.readouterr().err
    assert (artifacts / "test_table.json").read_text() == before
    assert "elsewhere" not in (artifacts / "config_test.yaml").read_text()
    assert len(client.search_runs([first.info.experiment_id])) == 2

    run("test", "-c", config)
    assert "without --resume the policy is as it was before training" in capsys.readouterr().err


def test_flags_win_over_the_checkpoint(config: Path, workspace: Path) -> None:
    run("fit", "-c", config, "--model.group_size", 4)
    _, first = only_run(workspace)
    cli = run(
        *("fit", "-c", config, "--ckpt_path", first.data.tags[CHECKPOINT_TAG]),
        *("--model.group_size", 5, "--trainer.max_steps", 5),
    )
    assert cli.model.group_size == 5 and cli.trainer.global_step == 5


def test_a_checkpoint_of_another_architecture_is_refused(config: Path, workspace: Path) -> None:
    run("fit", "-c", config)
    _, first = only_run(workspace)
    with pytest.raises(UserError) as caught:
        run(
            *("fit", "-c", config, "--ckpt_path", first.data.tags[CHECKPOINT_TAG]),
            *("--model.policy.init_args.rank", 3),
        )
    assert "another architecture" in str(caught.value) and "(2, 3)" in str(caught.value)


def test_fast_dev_run_leaves_nothing_behind(config: Path, workspace: Path) -> None:
    run("fit", "-c", config, "--trainer.fast_dev_run", "true")
    assert not (workspace / "mlruns" / "regionr1").exists()


def test_a_full_disk_leaves_the_checkpoint_before(config: Path, workspace, monkeypatch) -> None:
    real, saved = checkpoint_file._write, []

    def write(checkpoint, file) -> None:
        if saved and checkpoint["global_step"] > 3:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(checkpoint["global_step"])
        real(checkpoint, file)

    monkeypatch.setattr(checkpoint_file, "_write", write)
    words = r"step-000004.ckpt: cannot be written .No space left.*; the one before it is kept"
    with pytest.raises(UserError, match=words):
        run("fit", "-c", config)
    (checkpoint,) = workspace.glob("mlruns/regionr1/*/checkpoints/step*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 3
    assert set(checkpoint.parent.iterdir()) == {checkpoint, checkpoint.parent / "best.ckpt"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("experiment_name", "../../x", "experiment_name is '../../x'; give a plain name"),
        ("tracking_uri", "file:./x", "'file:./x' is a file store, which MLflow gave up"),
        (
            "tracking_uri",
            "http://u:pw@127.0.0.1:9",
            r"server http://u:\*\*\*@127.0.0.1:9 cannot",
        ),
        ("tracking_uri", "nonsense://x", "the tracking store nonsense://x"),
        ("run_id", "nobody", "the tracking store sqlite.* refused: Run with id=nobody not found"),
    ],
)
def test_what_the_tracker_refuses_is_one_sentence(config, monkeypatch, name, value, words) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=words) as caught:
        run("fit", "-c", config, f"--trainer.logger.init_args.{name}", value)
    assert len(sentence(caught.value)) < 500


def test_what_the_tracker_refuses_on_the_way_is_one_sentence(config, monkeypatch) -> None:
    deliver = SpoolingClient.deliver

    def refuse(client, record, source) -> None:
        if any(name.startswith("val/") for name, *_ in record.get("metrics", ())):
            raise MlflowException("no more room for you", BAD_REQUEST)
        deliver(client, record, source)

    monkeypatch.setattr(SpoolingClient, "deliver", refuse)
    with pytest.raises(
        UserError, match="the tracking store sqlite.* refused: no more room for you"
    ):
        run("fit", "-c", config)


def test_profiler_by_option(config: Path, capsys) -> None:
    run(
        "fit",
        "-c",
        config,
        "--trainer.profiler",
        "regionr1.tracking.callbacks.profiler.StageProfiler",
    )
    out = capsys.readouterr().out
    assert all(stage in out for stage in ("decode", "data", "backward", "optimizer", "4 steps"))
