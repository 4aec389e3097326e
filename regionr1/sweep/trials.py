"""Running one trial: an ordinary `regionr1 fit` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Protocol

from regionr1.errors import ERROR_LINE
from regionr1.tracking.channel import TRIAL_VARIABLE, TrialChannel

STOP_S = 20  # a run that is told to end gets this long before it is killed
POLL_S = 0.5


class TrialFailed(Exception):
    """A trial that brought no result; the sweep goes on."""


@dataclass(frozen=True)
class TrialJob:
    """What a runner needs to know of a trial to run it.

    Attributes:
        arguments: Command line of `regionr1`, from `fit` on.
        metrics: Metrics that are reported.
        tags: Tags of the MLflow run.
        log: File for what the run prints.
    """

    arguments: Sequence[str]
    metrics: Sequence[str]
    tags: Mapping[str, str]
    log: Path = Path(os.devnull)


class Runner(Protocol):
    """A way to run a trial to its end."""

    def __call__(self, job: TrialJob, channel: TrialChannel) -> None:
        """Runs a trial to its end and reports to the sweep on the way.

        Raises:
            TrialFailed: If it ended without a result; says why.
        """


class FreshProcess:
    """Runs a trial in a process of its own, so that GPU memory is free again afterwards.

    Args:
        timeout_s: Seconds after which a trial is ended and counts as failed.
        command: What `regionr1` is called by.
    """

    def __init__(
        self,
        timeout_s: float | None = None,
        command: Sequence[str] = (sys.executable, "-m", "regionr1"),
    ) -> None:
        self.timeout_s = timeout_s
        self.command = command

    def __call__(self, job: TrialJob, channel: TrialChannel) -> None:
        """Starts the process, answers its reports and waits for its end."""
        ours, theirs = Pipe()
        spec = {
            "connection": theirs.fileno(),
            "metrics": list(job.metrics),
            "tags": dict(job.tags),
        }
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with ours, job.log.open("wb") as log:
            process = subprocess.Popen(
                [*self.command, *job.arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, TRIAL_VARIABLE: json.dumps(spec)},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which then ends the run
            )
            theirs.close()
            try:
                self._answer(process, ours, channel)
            finally:
                stop(process)
        if process.returncode:
            raise TrialFailed(failure(process.returncode, job.log))

    def _answer(self, process: subprocess.Popen[bytes], ours: Any, channel: TrialChannel) -> None:
        begin = time.monotonic()
        while process.poll() is None or ours.poll():
            if self.timeout_s is not None and time.monotonic() - begin > self.timeout_s:
                raise TrialFailed(f"longer than {self.timeout_s:g} s")
            if not ours.poll(POLL_S):
                continue
            try:
                message = json.loads(ours.recv_bytes())
            except EOFError:  # all is said; the process is about to end
                process.wait()
                return
            if "run_id" in message:
                channel.started(message["run_id"])
            else:
                prune = channel.report(message["step"], message["values"], message["kept"])
                ours.send_bytes(json.dumps(prune).encode())


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process, if it has not ended itself, and whatever it started and left behind."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with suppress(ProcessLookupError):  # further ranks and loaders are of its session
        os.killpg(process.pid, signal.SIGKILL)


def out_of_memory(text: str, error: BaseException | None = None) -> str | None:
    """The reason, when a failure is one of memory."""
    kinds = ("OutOfMemoryError", "MemoryError")
    if isinstance(error, MemoryError) or type(error).__name__ in kinds:
        return f"out of memory: {text}" if text else "out of memory"
    lowered = text.lower()
    if any(kind in text for kind in kinds) or "out of memory" in lowered:
        return text if "out of memory" in lowered else f"out of memory: {text}"
    return None


def failure(returncode: int, log: Path) -> str:
    """Why a process failed, from its exit code and the last line it wrote."""
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = "; the system was out of memory, or someone killed it" if name == "SIGKILL" else ""
        return f"ended by {name}{hint} ({log})"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    last = last.removeprefix(ERROR_LINE)
    return f"{out_of_memory(last) or last or f'exit code {returncode}'} ({log})"
