"""A trial in a process of its own: reports, verdicts, ends of every kind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from checkout import TESTS

from regionr1.sweep.trials import FreshProcess, TrialFailed, TrialJob, failure
from regionr1.sweep.worker import StudyChannel

RUN = """\
import json, os, sys, time
from regionr1.tracking.channel import TRIAL_VARIABLE, PipeChannel
spec = json.loads(os.environ[TRIAL_VARIABLE])
channel = PipeChannel(spec["connection"])
how = sys.argv[1]
channel.started("run-of-" + spec["tags"]["sweep.trial"])
for step in (10, 20, 30):
    if channel.report(step, {spec["metrics"][0]: step / 10}, step < 30):
        print("told to stop at", step, flush=True)
        sys.exit(0)
if how == "oom":
    raise MemoryError
if how == "refused":
    print("regionr1: error: model.group_size is 1: set it to 2 or more", file=sys.stderr)
    sys.exit(2)
if how == "killed":
    os.kill(os.getpid(), 9)
if how == "leaves":
    import subprocess
    print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
if how == "sleeps":
    print("asleep", flush=True)
    time.sleep(60)
"""


class Channel:
    def __init__(self, stop_at: int = 0) -> None:
        self.stop_at, self.reports, self.run_id = stop_at, [], None

    def started(self, run_id) -> None:
        self.run_id = run_id

    def report(self, step, values, kept) -> bool:
        self.reports.append((step, values, kept))
        return step == self.stop_at


@pytest.fixture
def start(tmp_path: Path):
    (tmp_path / "run.py").write_text(RUN)

    def run(how: str, channel: Channel, timeout_s: float | None = None) -> str:
        log = tmp_path / "logs" / "0.log"
        job = TrialJob([how], ["val/x"], {"sweep.trial": "4"}, log)
        try:
            FreshProcess(timeout_s, (sys.executable, str(tmp_path / "run.py")))(job, channel)
        finally:
            run.log = log.read_text()
        return run.log

    return run


def test_reports_arrive_in_order(start) -> None:
    channel = Channel()
    start("well", channel)
    assert channel.run_id == "run-of-4"
    assert channel.reports == [(step, {"val/x": step / 10}, step < 30) for step in (10, 20, 30)]


def test_a_trial_counts_by_its_best_checkpoint(start) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    channel = StudyChannel(study.ask())
    start("well", channel)  # whose last validation is no better by what the checkpoint is kept by
    assert channel.result(["val/x"]) == [2.0] and channel.kept_step == 20
    assert study.trials[-1].intermediate_values == {10: 1.0, 20: 2.0, 30: 3.0}


def test_a_verdict_reaches_the_run(start) -> None:
    channel = Channel(stop_at=20)
    assert "told to stop at 20" in start("well", channel)
    assert [step for step, *_ in channel.reports] == [10, 20]


@pytest.mark.parametrize(
    "pruner",
    [
        optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=20),
        optuna.pruners.SuccessiveHalvingPruner(min_resource=20),
        optuna.pruners.HyperbandPruner(min_resource=20, max_resource=30),
        optuna.pruners.PercentilePruner(90.0, n_startup_trials=1, n_warmup_steps=20),
    ],
    ids=lambda pruner: type(pruner).__name__,
)
def test_the_verdict_of_a_real_pruner_reaches_the_run(start, pruner) -> None:
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for _ in range(12):  # so that hyperband has some in every bracket
        better = study.ask()
        for step in (10, 20, 30):
            better.report(1000.0, step)
            better.should_prune()
        study.tell(better, 1000.0)
    channel = StudyChannel(study.ask())
    assert "told to stop at 20" in start("well", channel)
    assert channel.pruned and study.trials[-1].intermediate_values == {10: 1.0, 20: 2.0}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("oom", "out of memory: MemoryError"),
        ("refused", "^model.group_size is 1: set it to 2 or more .*0.log"),
        ("killed", "ended by SIGKILL; the system was out of memory"),
    ],
)
def test_how_a_run_failed(start, how: str, words: str) -> None:
    with pytest.raises(TrialFailed, match=words):
        start(how, Channel())


def test_a_run_that_takes_too_long_is_ended(start) -> None:
    begin = time.monotonic()
    with pytest.raises(TrialFailed, match="longer than 0.5 s"):
        start("sleeps", Channel(), timeout_s=0.5)
    assert time.monotonic() - begin < 30


def test_what_a_run_leaves_behind_is_ended(start) -> None:
    text = start("leaves", Channel())
    wait_for(lambda: not running(int(text)))


def test_cuda_out_of_memory_is_told_apart(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried 3 GiB\n\n")
    assert failure(1, log).startswith("torch.OutOfMemoryError: CUDA out of memory")
    log.write_text("")
    assert failure(3, log).startswith("exit code 3")


def test_a_run_ends_when_its_sweep_is_killed(tmp_path: Path) -> None:
    """Otherwise it would go on beside the worker that takes its trial up."""
    (tmp_path / "run.py").write_text(RUN)
    sweep = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_sweep_process import Channel\n"
        "from regionr1.sweep.trials import FreshProcess, TrialJob\n"
        "from pathlib import Path\n"
        "job = TrialJob(['sleeps'], ['x'], {'sweep.trial': '0'}, Path('log'))\n"
        "FreshProcess(None, (sys.executable, 'run.py'))(job, Channel())\n"
    )
    command = [sys.executable, "-c", sweep, str(TESTS), str(Path(__file__).parent)]
    worker = subprocess.Popen(command, cwd=tmp_path)
    log = tmp_path / "log"
    try:
        wait_for(lambda: log.exists() and "asleep" in log.read_text())
        (child,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    wait_for(lambda: not running(int(child)))


def running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.1)
