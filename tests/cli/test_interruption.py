"""SIGTERM and Ctrl-C: a checkpoint, the command that goes on, and what MLflow says."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from lightning.pytorch import Callback
from tiny_command import CONFIG, only_run
from tiny_run import TinyData, TinyModule

from regionr1.cli import fit as lightning_cli
from regionr1.cli import main as command_line
from regionr1.errors import Interrupted, UserError, exit_code


class SignalAt(Callback):
    """Sends a signal to this process in a training step, or in the validation after it."""

    def __init__(self, step: int, signum: int, validating: bool = False, times: int = 1) -> None:
        self.step, self.signum, self.validating, self.times = step, signum, validating, times

    def send(self) -> None:
        for _ in range(self.times):
            os.kill(os.getpid(), self.signum)

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        if not self.validating and trainer.global_step == self.step - 1:
            self.send()

    def on_validation_batch_start(self, trainer, *args) -> None:
        if self.validating and trainer.global_step == self.step and self.times:
            self.send()
            self.times = 0


@pytest.fixture
def config(workspace: Path) -> Path:
    path = workspace / "run.yaml"
    path.write_text(CONFIG)
    return path


def run(*args: object, callbacks: tuple[Callback, ...] = ()) -> lightning_cli.RegionCLI:
    options = [str(arg) for arg in args]
    return lightning_cli.run(options, TinyModule, TinyData, callbacks=callbacks)


def losses(client, run_id: str) -> dict[int, float]:
    return {point.step: point.value for point in client.get_metric_history(run_id, "workings/loss")}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("step", "validating"), [(2, False), (2, True), (3, False)])
def test_a_signal_ends_a_run_with_a_checkpoint(
    config, workspace, capsys, signum, step, validating
) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as caught:
        run("fit", "-c", config, callbacks=(SignalAt(step, signum, validating),))
    assert exit_code(caught.value) == 128 + signum
    assert signal.getsignal(signum) == before
    client, found = only_run(workspace)
    assert found.info.status == "KILLED"
    line = capsys.readouterr().err.strip().splitlines()[-1]
    name = signal.Signals(signum).name
    command = f"regionr1 fit --resume {found.info.run_id}"
    assert line == f"ended by {name} after step {step}; this goes on: {command}"
    folder = workspace / "mlruns" / "regionr1" / found.info.run_id
    assert (folder / "checkpoints" / f"step-00000{step}.ckpt").is_file()
    assert not (folder / "training.lock").exists()

    run("fit", "--resume", found.info.run_id)
    _, resumed = only_run(workspace)
    assert resumed.info.status == "FINISHED"
    run("fit", "-c", config)  # never interrupted
    (plain,) = [
        r for r in client.search_runs([found.info.experiment_id])
        if r.info.run_id != found.info.run_id
    ]  # fmt: skip
    assert losses(client, found.info.run_id) == losses(client, plain.info.run_id)
    for metric in ("workings/loss", "val/mrr"):
        points, wanted = (
            [(p.step, p.value) for p in client.get_metric_history(r.info.run_id, metric)]
            for r in (resumed, plain)
        )
        assert points == wanted, "every row once, at the same step, validations too"
    ends = [
        torch.load(next((workspace / "mlruns/regionr1" / r.info.run_id).rglob("step-000004.ckpt")))
        for r in (resumed, plain)
    ]
    for name, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][name])


def test_a_second_signal_ends_at_once(config, workspace) -> None:
    with pytest.raises(Interrupted):
        run("fit", "-c", config, callbacks=(SignalAt(2, signal.SIGINT, times=2),))
    _, found = only_run(workspace)
    assert found.info.status == "KILLED"
    folder = workspace / "mlruns" / "regionr1" / found.info.run_id / "checkpoints"
    assert not list(folder.glob("step-*")), "in the middle of a step nothing is saved"


def test_a_failure_saves_what_was_done(config, workspace) -> None:
    class Fails(Callback):
        def on_before_backward(self, trainer, pl_module, loss) -> None:
            if trainer.global_step == 2:
                raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        run("fit", "-c", config, callbacks=(Fails(),))
    client, found = only_run(workspace)
    assert found.info.status == "FAILED"
    run("fit", "--resume", "last")
    points = [p.step for p in client.get_metric_history(found.info.run_id, "workings/loss")]
    assert points == [1, 2, 3, 4]


def test_broken_weights_are_not_saved(config, workspace) -> None:
    class Breaks(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args) -> None:
            if trainer.global_step == 2:
                torch.nn.init.constant_(pl_module.policy.adapter.bias, torch.nan)
                raise UserError("not a number")

    with pytest.raises(UserError, match="not a number"):
        run("fit", "-c", config, callbacks=(Breaks(),))
    assert not list(workspace.rglob("step-*.ckpt"))


def test_a_test_that_is_interrupted_does_not_pass(config, workspace) -> None:
    class Ends(Callback):
        def on_test_batch_start(self, *args) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    run("fit", "-c", config)
    with pytest.raises(Interrupted):
        run("test", "--resume", "last", callbacks=(Ends(),))


def test_python_without_srun_is_one_process(config, workspace, capsys, monkeypatch) -> None:
    variables = {"JOB_ID": 77, "NTASKS": 4, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NNODES": 1}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    cli = run("fit", "-c", config)
    assert cli.trainer.world_size == 1 and cli.trainer.global_step == 4
    assert "SLURM_NTASKS=4, but this was not started by srun" in capsys.readouterr().err

    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with pytest.raises(UserError, match="trainer: .*--ntasks"):
        run("fit", "-c", config)


@pytest.mark.parametrize("command", [["fit"], ["sweep", "x.yaml"]])
def test_exit_codes_are_those_of_signals(command, monkeypatch) -> None:
    for error, code in (
        (Interrupted(signal.SIGTERM), 143),
        (Interrupted(signal.SIGINT), 130),
        (KeyboardInterrupt(), 130),
    ):

        def interrupted(args: list[str], error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(command_line, "dispatch", interrupted)
        assert command_line.main(command) == code


def test_what_follows_in_a_script_sees_the_end(workspace) -> None:
    """As scripts/quickstart, which stops at the first command that fails."""
    fit = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); signal.pause()"
    script = f"set -euo pipefail\n{sys.executable} -c '{fit}'\necho tested\n"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=workspace)
    assert done.returncode == 143 and done.stdout == ""
    assert "set -euo pipefail" in (ROOT / "scripts" / "quickstart").read_text()
