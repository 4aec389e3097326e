"""Logger, profiler, schedule, data commands."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regionr1.errors import UserError
from regionr1.tracking.callbacks.checkpoints import LastCheckpoints
from regionr1.tracking.callbacks.profiler import StageProfiler
from regionr1.tracking.logger import TrackingLogger
from regionr1.tracking.store import default_tracking_uri, prepare_store
from regionr1.training.checkpoint import read_checkpoint, refuse_other_architecture
from regionr1.training.schedule import WarmupCosine


def test_everything_of_a_run_is_in_one_folder(workspace: Path) -> None:
    logger = TrackingLogger(experiment_name="colours")
    logger.log_metrics({"kl": 0.5}, step=3)
    logger.experiment.log_text(logger.run_id, "hello", "note.txt")
    run = workspace / "mlruns" / "colours" / str(logger.run_id)
    assert (run / "artifacts" / "note.txt").read_text() == "hello"
    assert (logger.save_dir, logger.name) == (str(workspace / "mlruns"), "colours")
    again = TrackingLogger(experiment_name="colours")
    assert again.experiment_id == logger.experiment_id and again.run_id != logger.run_id


def test_names_and_steps_of_metrics(workspace: Path) -> None:
    logger = TrackingLogger()
    # Lightning's: counted from 0, with the epoch.
    logger.log_metrics({"reward": 1.0, "rewards/mrr/mean": 2.0, "epoch": 0}, step=19)
    logger.log_metrics({"val/mrr": 3.0, "epoch": 0}, step=19)
    logger.log_metrics({"test/policy/mrr": 4.0, "test/centre/mrr": 5.0}, step=20)
    run = logger.experiment.get_run(logger.run_id)
    assert run.data.metrics == {
        "train/reward": 1.0,
        "workings/rewards.mrr.mean": 2.0,
        "val/mrr": 3.0,
        "test/policy/mrr": 4.0,
        "workings/test.centre.mrr": 5.0,
    }
    for name in run.data.metrics:
        (row,) = logger.experiment.get_metric_history(logger.run_id, name)
        assert row.step == 20, "what Optuna and the text call it"


def test_an_evaluation_leaves_the_end_of_the_run_it_is_logged_in(workspace: Path) -> None:
    first = TrackingLogger()
    first.log_metrics({"val/mrr": 0.5}, step=7)
    first.finalize("success")
    before = first.experiment.get_run(first.run_id).info
    again = TrackingLogger(run_id=first.run_id)
    again.evaluated_step = 7
    again.log_metrics({"val/mrr": 0.6, "epoch": 0}, step=0)
    again.finalize("failed")
    after = again.experiment.get_run(first.run_id).info
    assert (after.end_time, after.status) == (before.end_time, "FINISHED")
    assert {m.step for m in again.experiment.get_metric_history(first.run_id, "val/mrr")} == {7}


def test_a_resumed_run_may_get_more_steps_and_no_other_model(workspace: Path) -> None:
    first = TrackingLogger()
    started = {"trainer.max_steps": 4, "model.group_size": 8, "model.mine": {"deep": 1}}
    first.log_hyperparams(started)
    again = TrackingLogger(run_id=first.run_id)
    again.log_hyperparams({**started, "trainer.max_steps": 9, "data.new": 1})
    run = again.experiment.get_run(first.run_id)
    assert run.data.params == {
        **{"trainer.max_steps": "4", "model.group_size": "8", "model.mine.deep": "1"},
        "data.new": "1",
    }
    assert run.data.tags["resumed.trainer.max_steps"] == "9"
    with pytest.raises(UserError, match="model.group_size was 8 and is 6; drop the override"):
        again.log_hyperparams({**started, "model.group_size": 6})


def test_a_store_follows_the_working_folder(workspace: Path, tmp_path_factory, monkeypatch) -> None:
    assert prepare_store("sqlite:///mlruns/mlflow.db") == f"sqlite:///{workspace}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert default_tracking_uri() == "http://tracker:5000"


@pytest.mark.parametrize(
    "uri", ["file:./mlruns", "mlruns", "sqlite:///note.txt", "sqlite:////proc/no/x.db"]
)
def test_a_bad_store_is_one_sentence(workspace: Path, uri: str) -> None:
    (workspace / "note.txt").write_text("this is no database, however long one looks at it\n" * 50)
    with pytest.raises(UserError) as caught:
        prepare_store(uri)
    assert "\n" not in str(caught.value)


def test_a_deleted_experiment_is_explained(workspace: Path) -> None:
    logger = TrackingLogger(experiment_name="gone")
    logger.experiment.delete_experiment(logger.experiment_id)
    with pytest.raises(UserError, match="mlflow experiments restore"):
        TrackingLogger(experiment_name="gone")


@pytest.mark.slow
def test_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    code = f"from regionr1.tracking.store import prepare_store; prepare_store('sqlite:///{tmp_path}/db')"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]


def test_profiler_counts_each_second_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("regionr1.tracking.callbacks.profiler.time.perf_counter", lambda: now)
    profiler = StageProfiler()
    with profiler.profile("run_training_batch"):
        with profiler.profile("[LightningModule]RGRPO.optimizer_step"):
            with profiler.profile("[Strategy]SingleDeviceStrategy.training_step"):
                with profiler.profile("decode"):
                    now += 2
                    with profiler.profile("vision"):
                        now += 1
            with profiler.profile("[Strategy]SingleDeviceStrategy.backward"):
                now += 4
            now += 8
    with profiler.profile("decode"):  # in a validation: not part of a training step
        now += 16
    assert profiler.steps == 1
    seconds = {stage: spent for stage, spent in profiler.seconds.items() if spent}
    assert seconds == {"decode": 2, "vision": 1, "backward": 4, "optimizer": 8}
    lines = profiler.summary().strip().splitlines()
    assert lines[1].startswith("optimizer") and lines[-1].endswith("1 steps")


def test_schedule_warms_up_and_comes_down() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(optimizer, warmup_steps=4, total_steps=12)
    rates = []
    for _ in range(14):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rates[8] == pytest.approx(1.0) and rates[12:] == pytest.approx([0.0, 0.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    with pytest.raises(ValueError, match="warmup_steps"):
        WarmupCosine(optimizer, warmup_steps=5, total_steps=5)


def test_a_resumed_schedule_may_be_longer() -> None:
    def made(total_steps: int) -> WarmupCosine:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return WarmupCosine(optimizer, warmup_steps=4, total_steps=total_steps)

    first, longer = made(12), made(40)
    for _ in range(8):
        first.optimizer.step()
        first.step()
    longer.load_state_dict(first.state_dict())
    assert longer.last_epoch == 8 and longer.total_steps == 40


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "extra": torch.zeros(1)}, "extra"),
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, r"\(2, 4\)"),
        ({"weight": torch.zeros(2, 3)}, "lacks bias"),
    ],
)
def test_another_architecture_is_refused(state, words) -> None:
    with pytest.raises(UserError, match=words):
        refuse_other_architecture(torch.nn.Linear(3, 2), {"state_dict": state})


def test_what_is_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    with pytest.raises(UserError, match="No such file"):
        read_checkpoint(path)
    for content in (b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="x.ckpt: it is damaged or no checkpoint; give"):
            read_checkpoint(path)
    torch.save({"weights": torch.ones(1)}, path)
    with pytest.raises(UserError, match="x.ckpt is no checkpoint of a run"):
        read_checkpoint(path)


def test_checkpoint_interval_must_be_positive() -> None:
    with pytest.raises(UserError, match="at least 1"):
        LastCheckpoints(every_n_steps=0)
