"""One process at a time trains a run: a file in the run's folder says which."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from regionr1.errors import UserError
from regionr1.files import write_json

LOCK = "training.lock"


def trainer_of(run: Path) -> str | None:
    """Who trains a run now.

    Args:
        run: Its folder.

    Returns:
        The process, in words; None where nobody does, or the process ended without a word.
    """
    path = run / LOCK
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        host, pid, started = str(owner["host"]), int(owner["pid"]), float(owner["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if host == socket.gethostname() and _started(pid) != started:
        return None
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(started))
    told = f"process {pid} on {host}, started {since}"
    return told if host == socket.gethostname() else f"{told} (if it is gone, remove {path})"


def _started(pid: int) -> float | None:
    """When a process of this machine was started: numbers of processes are used again."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def refuse_trained(run: Path, run_id: str) -> None:
    """Refuses to go on with a run that another process trains.

    Raises:
        UserError: Names the process.
    """
    owner = trainer_of(run)
    if owner is not None:
        raise UserError(f"run {run_id} is being trained by {owner}; wait for its end, or end it")


class RunLock:
    """The lock of a run that this process trains.

    Args:
        run: The run's folder.
        run_id: Its id.
    """

    def __init__(self, run: Path, run_id: str) -> None:
        self.path = run / LOCK
        self.mine: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
        }
        run.mkdir(parents=True, exist_ok=True)
        with FileLock(run / f".{LOCK}"):  # two may find the lock of a dead process
            refuse_trained(run, run_id)
            write_json(self.path, self.mine)

    def release(self) -> None:
        """Gives the run up."""
        self.path.unlink(missing_ok=True)
