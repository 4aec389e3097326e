"""`--resume`: which run and which checkpoint it takes, and what it refuses."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from tiny_command import CONFIG, only_run, run

from regionr1.errors import UserError
from regionr1.tracking.callbacks.checkpoints import BestCheckpoint
from regionr1.tracking.lock import LOCK, RunLock, trainer_of
from regionr1.tracking.logger import TrackingLogger
from regionr1.tracking.resume import find_run
from regionr1.tracking.store import PARENT_TAG, prepare_store
from regionr1.training.checkpoint import read_checkpoint

STORE = "sqlite:///mlruns/mlflow.db"


@pytest.fixture
def trained(workspace: Path) -> Path:
    """The folder of a run of four steps."""
    (workspace / "run.yaml").write_text(CONFIG)
    run("fit", "-c", "run.yaml", "--checkpoint.every_n_steps", 1)
    _, found = only_run(workspace)
    return workspace / "mlruns" / "regionr1" / found.info.run_id


def write_lock(folder: Path, **changed: object) -> None:
    owner = {"host": socket.gethostname(), "pid": os.getpid()}
    owner |= {"started": psutil.Process().create_time()} | changed
    (folder / LOCK).write_text(json.dumps(owner))


def test_the_last_two_and_the_best_are_kept(trained: Path) -> None:
    names = sorted(path.name for path in (trained / "checkpoints").iterdir())
    assert names == ["best.ckpt", "step-000003.ckpt", "step-000004.ckpt"]
    best = read_checkpoint(trained / "checkpoints" / "best.ckpt")
    assert best["global_step"] == 4, "the tiny module gets better all the time"
    run("fit", "--resume", trained.name, "--trainer.max_steps", 6)
    names = sorted(path.name for path in (trained / "checkpoints").iterdir())
    assert names == ["best.ckpt", "step-000005.ckpt", "step-000006.ckpt"]


def test_a_resumed_run_does_not_lose_a_better_one(trained: Path) -> None:
    best = trained / "checkpoints" / "best.ckpt"
    content = read_checkpoint(best)
    content["callbacks"]["BestCheckpoint"]["score"] = torch.tensor(5.0)
    torch.save(content, best)
    run("fit", "--resume", trained.name, "--trainer.max_steps", 6)
    assert read_checkpoint(best)["global_step"] == 4
    run("fit", "--resume", trained.name, "--trainer.max_steps", 8, "--best.mode", "min")
    assert read_checkpoint(best)["global_step"] > 6, "another measure begins anew"


def test_a_metric_that_nobody_logs_is_named(workspace: Path) -> None:
    (workspace / "run.yaml").write_text(CONFIG)
    with pytest.raises(UserError, match="best.monitor: no validation logs val/x; it logs val/mrr"):
        run("fit", "-c", "run.yaml", "--best.monitor", "val/x")
    assert BestCheckpoint().monitor == "val/mrr"


def test_test_takes_the_best_and_says_so(trained: Path, capsys) -> None:
    run("test", "--resume", "last")
    told = f"test: the best checkpoint of run {trained.name}, step 4, val/mrr -0."
    assert told in capsys.readouterr().err
    run("test", "--resume", "last", "--checkpoint", "last")
    told = capsys.readouterr().err
    assert f"test: the last checkpoint of run {trained.name}, step 4" in told
    assert "--checkpoint last measures is logged as a run of its own" in told
    for args in (["test", "--checkpoint", "best"], ["test", "--resume", "x", "--checkpoint", "y"]):
        with pytest.raises(UserError, match="--checkpoint"):
            run(*args)
    with pytest.raises(UserError, match="fit goes on from the last checkpoint"):
        run("fit", "--resume", "last", "--checkpoint", "best")


def test_a_damaged_checkpoint_falls_back_on_the_one_before(trained: Path, capsys) -> None:
    last = trained / "checkpoints" / "step-000004.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 4
    last.write_bytes(content)
    cli = run("fit", "--resume", "last", "--trainer.max_steps", 5)
    err = capsys.readouterr().err
    assert "step-000004.ckpt: " in err and "the one before it is taken" in err
    assert cli.trainer.global_step == 5
    names = sorted(path.name for path in (trained / "checkpoints").iterdir())
    assert names == [*("best.ckpt", "step-000004.ckpt", "step-000004.damaged", "step-000005.ckpt")]
    for path in (trained / "checkpoints").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"no checkpoint of run {trained.name} can be read"):
        find_run("last", STORE)


def test_what_a_kill_left_half_written_is_removed(trained: Path) -> None:
    half = trained / "checkpoints" / ".step-000004.ckpt.partial-0a0b"
    half.write_bytes(b"half")
    run("fit", "--resume", "last", "--trainer.max_steps", 5)
    assert not half.exists()


# ---- one process at a time -----------------------------------------------------------------------


def test_a_run_that_is_being_trained_is_refused(trained: Path) -> None:
    write_lock(trained)
    words = f"run {trained.name} is being trained by process {os.getpid()} on .*, started 20"
    for verb in ("fit", "test"):
        with pytest.raises(UserError, match=words):
            run(verb, "--resume", trained.name)
    with pytest.raises(UserError, match="only runs with a checkpoint are runs that are being"):
        run("fit", "--resume", "last")
    with pytest.raises(UserError, match=words):
        RunLock(trained, trained.name)


def test_the_lock_of_a_process_that_is_gone_is_taken_over(trained: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for changed in ({"pid": ended.pid}, {"started": 1.0}):  # or its number was used again
        write_lock(trained, **changed)
        assert trainer_of(trained) is None
        lock = RunLock(trained, trained.name)
        assert f"process {os.getpid()} on " in str(trainer_of(trained))
        lock.release()
    write_lock(trained, host="another-machine")
    assert f"(if it is gone, remove {trained / LOCK})" in str(trainer_of(trained))
    (trained / LOCK).write_text("{")
    assert trainer_of(trained) is None


def test_last_is_no_trial_of_a_sweep(trained: Path, workspace: Path) -> None:
    client, found = only_run(workspace)
    client.set_tag(found.info.run_id, PARENT_TAG, "the sweep")
    with pytest.raises(UserError, match="only runs with a checkpoint are trials of a sweep; name"):
        run("test", "--resume", "last")
    assert find_run(found.info.run_id, STORE).run_id == found.info.run_id


# ---- the same settings ---------------------------------------------------------------------------


def test_other_settings_are_refused_in_full(trained: Path, workspace: Path) -> None:
    words = "model.group_size was 8 and is 6; drop the override"
    with pytest.raises(UserError, match=words):
        run("fit", "--resume", "last", "--model.group_size", 6, "--trainer.max_steps", 5)
    run("fit", "--resume", "last", "--data.num_workers", 0, "--trainer.max_steps", 5)


def test_texts_that_differ_late_are_told_apart(workspace: Path) -> None:
    first, second = ("x" * 7000 + end for end in (" in pixels", " in thousandths"))
    logger = TrackingLogger()
    logger.log_hyperparams({"policy": {"prompt": first}})
    TrackingLogger(run_id=logger.run_id).log_hyperparams({"policy": {"prompt": first}})
    with pytest.raises(UserError, match="started with other settings than now: policy.prompt was"):
        TrackingLogger(run_id=logger.run_id).log_hyperparams({"policy": {"prompt": second}})


def test_a_config_cannot_bring_a_command(trained: Path) -> None:
    path = trained / "artifacts" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"]["shards"] = "pipe:touch pwned; cat {name}"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="would have a command run for data.shards; if you want"):
        run("test", "--resume", "last")
    run("test", "--resume", "last", "--data.shards", "pipe:cat {name}")
    assert not Path("pwned").exists()


def test_epochs_do_not_count(workspace: Path) -> None:
    (workspace / "run.yaml").write_text(CONFIG)
    options = ["fit", "-c", "run.yaml", "--trainer.max_epochs"]
    with pytest.raises(
        UserError, match="max_epochs is 1, but the training stream is endless.*max_s"
    ):
        run(*options, 1, "--trainer.max_steps", -1)
    with pytest.raises(UserError, match="never end; set trainer.max_steps or trainer.max_time"):
        run(*options, -1, "--trainer.max_steps", -1)
    run(*options, 1, "--trainer.max_steps", -1, "--trainer.limit_train_batches", 2)


# ---- where things are ----------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [False, True])
def test_a_project_folder_that_was_moved(
    trained: Path, workspace: Path, copied, monkeypatch
) -> None:
    elsewhere = workspace.parent / f"{workspace.name}-elsewhere"
    elsewhere.mkdir()
    (shutil.copytree if copied else shutil.move)(workspace / "mlruns", elsewhere / "mlruns")
    monkeypatch.chdir(elsewhere)
    # In one process MLflow remembers where the store was, and where a run's artifacts were.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    _artifact_repos_cache.clear()
    run("test", "--resume", "last")
    run("fit", "--resume", "last", "--trainer.max_steps", 5)
    home = elsewhere / "mlruns" / "regionr1" / trained.name
    assert (home / "artifacts" / "test_table.json").is_file()
    assert (home / "checkpoints" / "step-000005.ckpt").is_file()
    client = MlflowClient(prepare_store(STORE))
    assert client.get_run(trained.name).info.artifact_uri == (home / "artifacts").as_uri()
    old = workspace / "mlruns" / "regionr1" / trained.name
    assert not (old / "artifacts" / "test_table.json").exists(), "nothing goes to the old place"


def test_a_database_of_another_version_names_the_remedy(tmp_path: Path, migrated_db: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(migrated_db, path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    for _ in range(2):  # the second is not kept waiting by the first
        with pytest.raises(UserError, match="of another MLflow version; .*run `mlflow db upgrade"):
            prepare_store(f"sqlite:///{path}")


def test_secrets_are_not_kept_and_have_to_be_given_again(workspace: Path, capsys) -> None:
    (workspace / "run.yaml").write_text(CONFIG)
    shards = "https://me:s3cret@host/shards?token=t0ken"
    run("fit", "-c", "run.yaml", "--data.shards", shards)
    _, found = only_run(workspace)
    told = [str(found.data.tags), str(found.data.params), capsys.readouterr().out]
    told += [p.read_text() for p in workspace.rglob("*.yaml") if p.name != "run.yaml"]
    told += [p.read_text() for p in workspace.rglob("*.json")]
    assert len(told) > 4 and not any("s3cret" in text or "t0ken" in text for text in told)
    with pytest.raises(UserError, match="does not keep the secret in data.shards .https://me:.*gi"):
        run("test", "--resume", "last")
    run("test", "--resume", "last", "--data.shards", shards)
