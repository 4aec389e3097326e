"""Four workers at once on one study: no trial lost, none doubled, two of them killed on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from checkout import TESTS
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from postgres import postgresql
from sweep_worker import files

N_TRIALS, WORKERS, KILLED = 10, 4, 2


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request, workspace: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield "sqlite:///mlruns/optuna.db"
        return
    with postgresql() as url:
        yield url


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_killed_workers_lose_nothing(storage: str, workspace: Path) -> None:
    file = files(workspace)
    script = TESTS / "sweep_worker.py"
    command = [sys.executable, str(script), str(file), storage, str(N_TRIALS), "1", "2"]
    Path("hold").touch()  # no trial ends before the two are dead
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(WORKERS)
    ]
    killed: dict[int, int] = {}
    while len(killed) < KILLED:  # each in the middle of a trial of its own
        for worker in workers:
            if worker.pid in killed or len(killed) == KILLED:
                continue
            assert worker.stdout is not None
            for line in worker.stdout:
                if line.startswith("trial") and " begins" in line:
                    time.sleep(1)  # its first heartbeat is under way
                    os.kill(worker.pid, signal.SIGKILL)
                    killed[worker.pid] = int(line.split()[1])
                    break
            else:
                raise AssertionError("a worker ended before it began a trial")
    Path("hold").unlink()
    printed = [worker.communicate(timeout=240)[0] for worker in workers]
    codes = [worker.returncode for worker in workers]
    assert sorted(codes) == [-9] * KILLED + [0] * (WORKERS - KILLED), printed

    url = storage.replace("postgresql://", "postgresql+psycopg://")
    trials = optuna.load_study(study_name="colours", storage=url).trials
    history = RetryHeartbeatStaleTrialCallback.retry_history
    retried = {number for trial in trials for number in history(trial)}
    assert retried == set(killed.values()), "what the dead left was taken up, and nothing else"
    kept = [trial for trial in trials if trial.number not in retried]
    assert [trial.state for trial in kept] == [TrialState.COMPLETE] * N_TRIALS
    for trial in kept:
        for number in history(trial):
            assert trial.params == trials[number].params
            assert trials[number].state == TrialState.FAIL
    done = [int(number) for number in Path("done.txt").read_text().split()]
    assert sorted(done) == [trial.number for trial in kept], "each was done once"
    assert any(f"{N_TRIALS} complete, 0 pruned, 0 fail" in text for text in printed)
