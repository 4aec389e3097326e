"""Sweeps in one process: totals, going on, failures, pruning, interrupts, what MLflow shows."""

import csv
import functools
import logging
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from optuna.trial import TrialState
from PIL import Image
from sweep_worker import SWEEP, MadeUpTraining, files
from tiny_run import TinyData, TinyModule

from regionr1.cli import fit as lightning_cli
from regionr1.cli import sweep as commands
from regionr1.errors import UserError
from regionr1.sweep.in_process import InProcess
from regionr1.sweep.plan import read_plan
from regionr1.sweep.store import StudyStore
from regionr1.tracking.channel import STATE_TAG

CLASSES = {"model_class": TinyModule, "datamodule_class": TinyData}
PRUNER = """\
pruner:
  class_path: optuna.pruners.ThresholdPruner
  init_args: {lower: 1.0, n_warmup_steps: 1}
"""


class Scored(TinyModule):
    """Validates at `group_size` plus the step; groups of 7 do not fit into memory."""

    def validation_step(self, batch, batch_idx) -> None:
        super().validation_step(batch, batch_idx)
        if self.group_size == 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        score = float(self.group_size + self.global_step) if self.group_size > 2 else 0.0
        self.log("val/score", score, batch_size=4)


class TrainedHere(InProcess):
    """Real `fit` of the scored module."""

    def __init__(self) -> None:
        classes = {"model_class": Scored, "datamodule_class": TinyData}
        super().__init__(
            lambda args, callback: lightning_cli.run(args, callbacks=[callback], **classes)
        )


@pytest.fixture(autouse=True)
def few_pictures(request, monkeypatch) -> None:
    """Drawing takes seconds, so only the tests of pictures draw."""
    if "pictures" not in request.node.name and "front" not in request.node.name:
        monkeypatch.setattr("regionr1.sweep.summary.draw", lambda *_: [])


def sweep(runner, n_trials, storage="sqlite:///mlruns/optuna.db", text=SWEEP, **options):
    plan = read_plan(files(Path.cwd(), text))
    commands.run_sweep(plan, StudyStore(storage), runner, n_trials, **options, **CLASSES)
    return plan


def study(storage="sqlite:///mlruns/optuna.db") -> optuna.Study:
    if storage.startswith("journal:"):
        backend = optuna.storages.journal.JournalFileBackend(storage.removeprefix("journal:"))
        return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    return optuna.load_study(study_name="colours", storage=storage)


def mlflow_runs(workspace: Path):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("regionr1")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if run.data.tags.get("sweep.role") == "parent"]
    assert len(parents) == 1
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId")]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parents[0].info.run_id}
    return parents[0], sorted(children, key=lambda run: int(run.data.tags["sweep.trial"]))


@pytest.mark.parametrize("storage", ["sqlite:///mlruns/optuna.db", "journal:mlruns/optuna.log"])
def test_the_total_is_exact_and_the_same_command_goes_on(workspace, storage, capsys) -> None:
    sweep(MadeUpTraining(), 4, storage)
    first = study(storage).trials
    assert len(first) == 4
    assert first[0].params == {"model.group_size": 8, "model.policy.rank": 2}, "enqueued first"
    sweep(MadeUpTraining(), 4, storage)
    assert len(study(storage).trials) == 4
    sweep(MadeUpTraining(), 6, storage)
    again = study(storage).trials
    assert [trial.params for trial in again[:4]] == [trial.params for trial in first]
    assert [trial.state for trial in again] == [TrialState.COMPLETE] * 6
    assert Path("done.txt").read_text().split() == ["0", "1", "2", "3", "4", "5"]
    out = capsys.readouterr().out
    assert "6 trials in total" in out and "6 complete, 0 pruned, 0 fail" in out


@pytest.mark.parametrize("storage", ["sqlite:///mlruns/optuna.db", "journal:mlruns/optuna.log"])
def test_a_worker_that_died_while_it_claimed_a_trial_loses_nothing(workspace, storage) -> None:
    sweep(MadeUpTraining(), 1, storage)
    left = study(storage).ask()  # running, without any sign of life
    sweep(MadeUpTraining(), 3, storage)
    trials = study(storage).trials
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE
    ]  # fmt: skip
    history = optuna.storages.RetryHeartbeatStaleTrialCallback.retry_history
    assert [n for trial in trials for n in history(trial)] == [left.number] == [1]
    assert sorted(Path("done.txt").read_text().split()) == ["0", "2", "3"]


def test_real_trials_are_ordinary_runs_under_one_parent(workspace: Path, capsys) -> None:
    low = SWEEP.replace("low: 2, high: 9", "low: 2, high: 3") + PRUNER
    low = low.replace("model.group_size: 8", "model.group_size: 2")
    plan = sweep(TrainedHere(), 4, text=low)
    parent, children = mlflow_runs(workspace)
    trials = study().trials
    assert len(children) == len(trials) == 4
    assert trials[0].state == TrialState.PRUNED and trials[0].last_step == 1
    assert {trial.state for trial in trials} == {TrialState.PRUNED, TrialState.COMPLETE}
    for run, trial in zip(children, trials, strict=True):
        assert run.info.status == "FINISHED", "pruned is not failed"
        assert run.data.tags[STATE_TAG] == trial.state.name
        assert trial.user_attrs["mlflow_run_id"] == run.info.run_id
        for key, value in trial.params.items():
            assert run.data.params[key] == str(value), "as any other run, and nowhere else"
        size = trial.params["model.group_size"]
        if trial.state == TrialState.COMPLETE:
            assert size == 3 and trial.value == 3 + 4
            assert trial.intermediate_values == {1: 4.0, 2: 5.0, 3: 6.0, 4: 7.0}, "by global step"
        home = workspace / "mlruns" / "regionr1" / run.info.run_id
        config = yaml.safe_load((home / "artifacts" / "config.yaml").read_text())
        assert config["model"]["group_size"] == size
        assert run.info.run_name.startswith(f"{trial.number:03d} group_size {size}, rank ")
    best = study().best_trial
    tagged = [
        run.data.tags["sweep.trial"] for run in children if run.data.tags.get("sweep.best") == "yes"
    ]
    assert tagged == [str(best.number)]
    assert parent.data.tags["best.model.group_size"] == str(best.params["model.group_size"])
    assert (
        f"trial {best.number}: val/score {best.value:.4f}"
        in parent.data.tags["mlflow.note.content"]
    )
    assert parent.data.metrics["val/score"] == best.value
    assert parent.info.status == "FINISHED" and parent.info.run_name == "colours"
    assert parent.data.metrics["workings/sweep.best"] == 7.0
    assert parent.data.metrics["workings/sweep.trials_pruned"] >= 1
    assert parent.data.metrics["workings/sweep.seconds_saved_by_pruning"] > 0
    folder = workspace / "mlruns" / "regionr1" / parent.info.run_id / "artifacts" / "sweep"
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [row["state"] for row in rows] == [trial.state.name for trial in trials]
    assert (folder / "sweep.yaml").read_text() == plan.path.read_text()
    assert "best" in capsys.readouterr().out


def test_pictures(workspace: Path) -> None:
    sweep(MadeUpTraining(), 8)
    parent, _ = mlflow_runs(workspace)
    folder = workspace / "mlruns" / "regionr1" / parent.info.run_id / "artifacts" / "sweep"
    for name in ("history", "importance", "parallel_coordinates", "contour", "learning_curves"):
        with Image.open(folder / f"{name}.png") as image:
            colours = image.convert("RGB").getcolors(1 << 24) or []
        assert image.width > 600 and len(colours) > 50, name


def test_out_of_memory_fails_one_trial_with_its_reason(workspace: Path, capsys) -> None:
    text = SWEEP.replace("low: 2, high: 9", "low: 3, high: 7")
    text = text.replace("group_size: 8", "group_size: 7")
    sweep(TrainedHere(), 2, text=text)
    trials = study().trials
    assert trials[0].state == TrialState.FAIL
    assert "out of memory" in trials[0].user_attrs["reason"]
    assert "Tried to allocate 3 GiB" in capsys.readouterr().out
    _, children = mlflow_runs(workspace)
    assert children[0].info.status == "FAILED"
    assert "out of memory" in children[0].data.tags["sweep.reason"]
    assert len(trials) == 2 and (trials[1].state == TrialState.COMPLETE) == (
        trials[1].params["model.group_size"] != 7
    )


def test_three_failures_in_a_row_end_the_sweep(workspace: Path) -> None:
    with pytest.raises(UserError, match="3 trials in a row failed.*made up"):
        sweep(MadeUpTraining(fails=tuple(range(2, 10))), 9)
    assert [trial.state for trial in study().trials] == [TrialState.FAIL] * 3
    assert mlflow_runs(workspace)[0].info.status == "KILLED", "trials are left"


def test_a_metric_that_is_never_logged_is_the_reason(workspace: Path) -> None:
    with pytest.raises(UserError, match="no validation logged the metric val/skore"):
        sweep(MadeUpTraining(), 3, text=SWEEP.replace("val/score", "val/skore"))


class Interrupted(MadeUpTraining):
    def __call__(self, job, channel) -> None:
        if job.tags["sweep.trial"] == "1":
            raise KeyboardInterrupt
        super().__call__(job, channel)


def test_an_interrupted_trial_is_run_again(workspace: Path, capsys, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)  # to caplog
    with pytest.raises(KeyboardInterrupt):
        sweep(Interrupted(), 3)
    assert "regionr1 sweep sweep.yaml" in capsys.readouterr().out
    assert not caplog.records, "a sentence, without Optuna's traceback"
    sweep(MadeUpTraining(), 3)
    trials = study().trials
    states = [trial.state for trial in trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, *[TrialState.COMPLETE] * 2]
    assert trials[2].params == trials[1].params
    assert trials[1].user_attrs["reason"] == "interrupted"
    assert "3 complete, 0 pruned, 0 fail" in capsys.readouterr().out


def test_timeout_begins_no_further_trial(workspace: Path, capsys) -> None:
    sweep(MadeUpTraining(seconds=0.4), 50, timeout_s=0.5)
    assert 1 <= len(study().trials) <= 3
    assert "goes on" in capsys.readouterr().out


def test_several_objectives_show_the_pareto_front(workspace: Path, capsys) -> None:
    class Two(MadeUpTraining):
        def __call__(self, job, channel) -> None:
            both = functools.partial(self.both, channel.report)
            channel.report = lambda step, values, kept: both(step, values, kept)
            super().__call__(job, channel)

        @staticmethod
        def both(report, step, values, kept) -> bool:
            return report(step, {**values, "time/s": values["val/score"] ** 2}, kept)

    text = SWEEP.replace("space:", "  - {metric: time/s, direction: minimize}\nspace:", 1)
    sweep(Two(), 5, text=text)
    out = capsys.readouterr().out
    front = study().best_trials
    assert f"Pareto front of {len(front)}" in out and len(front) > 1
    parent, _ = mlflow_runs(workspace)
    folder = workspace / "mlruns" / "regionr1" / parent.info.run_id / "artifacts" / "sweep"
    for name in ("pareto_front", "importance_val_score", "history_time_s"):
        assert (folder / f"{name}.png").is_file(), name


def test_going_on_draws_new_settings_in_spite_of_a_fixed_seed(workspace: Path) -> None:
    text = SWEEP.split("enqueue:")[0].replace("int, low: 2, high: 9", "int, low: 2, high: 9000")
    text += "sampler: {class_path: optuna.samplers.RandomSampler, init_args: {seed: 1}}\n"
    for total in (3, 6):
        sweep(MadeUpTraining(), total, text=text)
    sizes = [trial.params["model.group_size"] for trial in study().trials]
    assert len(set(sizes)) == 6
    sweep(MadeUpTraining(), 6, "sqlite:///mlruns/again.db", text)
    again = study("sqlite:///mlruns/again.db").trials
    assert [trial.params["model.group_size"] for trial in again] == sizes, "and repeats as a whole"


def test_a_grid_is_run_once(workspace: Path) -> None:
    text = SWEEP.split("enqueue:")[0].replace("high: 9", "high: 3")
    sweep(MadeUpTraining(), 50, text=text + "sampler: optuna.samplers.GridSampler\n")
    points = [tuple(trial.params.values()) for trial in study().trials]
    assert len(points) == 6 == len(set(points))


def test_a_study_of_something_else_is_refused(workspace: Path) -> None:
    sweep(MadeUpTraining(), 1)
    with pytest.raises(UserError, match="optimises val/score.*another study name"):
        sweep(MadeUpTraining(), 1, text=SWEEP.replace("val/score", "val/other"))


def test_other_choices_in_the_same_study_are_refused(workspace: Path) -> None:
    sweep(MadeUpTraining(), 1)
    wider = SWEEP.replace("high: 9", "high: 12")  # which optuna takes
    sweep(MadeUpTraining(), 2, text=wider)
    other = SWEEP.replace("{type: int, low: 2, high: 9}", "{type: categorical, choices: [2, 8]}")
    assert other != SWEEP
    with pytest.raises(UserError, match="searched model.group_size otherwise.*another study name"):
        sweep(MadeUpTraining(), 3, text=other)
    assert len(study().trials) == 2


def test_a_sweep_without_any_result_fails(workspace: Path) -> None:
    with pytest.raises(UserError, match="all 2 trials failed"):
        sweep(MadeUpTraining(fails=tuple(range(2, 10))), 2)


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("mlruns/optuna.db", "no place for a study"),
        ("sqlite:///note.txt", "cannot open the study"),
        ("postgresql://nobody:secret@127.0.0.1:1/none", "cannot open|refused"),
    ],
)
def test_a_bad_storage_is_one_sentence(workspace: Path, storage: str, words: str) -> None:
    (workspace / "note.txt").write_text("this is no database, however long one looks at it\n" * 50)
    with pytest.raises(UserError, match=words) as caught:
        sweep(MadeUpTraining(), 1, storage)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
