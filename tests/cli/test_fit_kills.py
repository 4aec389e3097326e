"""`fit` is killed at random moments and goes on: nothing is lost, and nothing else comes out.

The training folder and the system's temporary folder lie on two filesystems, as on a cluster.
"""

import functools
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tiny_command import CONFIG, run

from regionr1.errors import Interrupted, exit_code
from regionr1.tracking.run_folder import step_of
from regionr1.training.checkpoint import read_checkpoint

STEPS, RUNS = 40, 6
OTHER_FILESYSTEM = Path("/dev/shm")


def fit(folder: Path, arguments: list[str], log: Path) -> None:
    """What a child process does: one `regionr1 fit`, its exit code that of the command."""
    os.chdir(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if OTHER_FILESYSTEM.is_dir():
        os.environ["TMPDIR"] = str(OTHER_FILESYSTEM)
    with log.open("a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    try:
        run("fit", *arguments)
    except Interrupted as interrupt:
        os._exit(exit_code(interrupt))
    os._exit(0)


def start(folder: Path, arguments: list[str]) -> multiprocessing.Process:
    """Starts one by a fork: importing everything again takes ten times as long as the training."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=fit, args=(folder, arguments, folder / "log"))
    process.start()
    return process


def rows(folder: Path, metric: str) -> dict[int, float]:
    """Values by step; two of one step must be equal, bit by bit."""
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as database:
        query = "SELECT step, value FROM metrics WHERE key = ?"
        found: dict[int, set[float]] = {}
        for step, value in database.execute(query, (metric,)):
            found.setdefault(step, set()).add(value)
    assert all(len(values) == 1 for values in found.values()), found
    return {step: values.pop() for step, values in sorted(found.items())}


def intact(folder: Path) -> int:
    """Reads every checkpoint that there is; returns how many."""
    files = list(folder.glob("mlruns/regionr1/*/checkpoints/*.ckpt"))
    for path in files:
        read_checkpoint(path)
    return len(files)


def await_checkpoints(process: multiprocessing.Process, folder: Path, count: int) -> None:
    """Waits for that many new ones: by the clock alone a busy machine would kill all or none."""
    files = functools.partial(folder.glob, "mlruns/regionr1/*/checkpoints/step-*.ckpt")
    before, seen = set(files()), set()
    while len(seen) < count and process.exitcode is None:
        seen |= set(files()) - before
        time.sleep(0.005)


def resumable(folder: Path) -> list[str]:
    """The run that has a checkpoint, as `--resume` takes it; a new run where there is none."""
    found = list(folder.glob("mlruns/regionr1/*/checkpoints/step-*.ckpt"))
    if not found:
        return ["-c", "run.yaml", "--trainer.max_steps", str(STEPS)]
    return ["--resume", max(found, key=step_of).parents[1].name]


def end(folder: Path) -> dict[str, torch.Tensor]:
    """The trained weights."""
    (path,) = folder.glob(f"mlruns/regionr1/*/checkpoints/step-{STEPS:06d}.ckpt")
    return read_checkpoint(path)["state_dict"]


@pytest.mark.slow
def test_kills_at_random_moments(workspace: Path, migrated_db: Path, capsys) -> None:
    config = CONFIG.replace("every_n_steps: 3", "every_n_steps: 1")
    folders = []
    for number in range(RUNS + 1):
        folder = workspace / f"run{number}"
        (folder / "mlruns").mkdir(parents=True)
        (folder / "mlruns" / "mlflow.db").write_bytes(migrated_db.read_bytes())
        (folder / "run.yaml").write_text(config)
        folders.append(folder)
    plain, *killed = folders
    process = start(plain, resumable(plain))
    process.join()
    assert process.exitcode == 0, (plain / "log").read_text()

    chance, count = random.Random(20261125), Counter[str]()
    for folder in killed:
        for _ in range(3):
            process = start(folder, resumable(folder))
            await_checkpoints(process, folder, chance.randrange(STEPS // 4))
            process.join(chance.uniform(0.0, 0.05))
            signum = chance.choice([signal.SIGKILL, signal.SIGTERM])
            if process.exitcode is None:
                os.kill(process.pid, signum)
                process.join()
                if process.exitcode != 0:
                    count[signum.name] += 1
                    assert process.exitcode in (-signum, 128 + signum), (folder / "log").read_text()
            count["checkpoints read after a kill"] += intact(folder)
        process = start(folder, resumable(folder))
        process.join()
        count["runs gone on with to their end"] += 1
        assert process.exitcode == 0, (folder / "log").read_text()
        for metric in ("workings/loss", "val/mrr"):
            assert rows(folder, metric) == rows(plain, metric), metric
        weights = end(plain)
        assert all(torch.equal(weights[name], value) for name, value in end(folder).items())
        left = [p.name for p in folder.rglob(".*") if "partial" in p.name]
        assert not left, "half-written files are removed"
    with capsys.disabled():
        print("\n" + ", ".join(f"{name}: {n}" for name, n in count.items()) + "; nothing lost")
    assert count["SIGKILL"] and count["SIGTERM"]
