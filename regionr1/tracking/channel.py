"""The channel between a sweep and the run of a trial: metrics go one way, verdicts the other."""

import json
import os
import signal
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, Protocol

TRIAL_VARIABLE = "REGIONR1_TRIAL"  # how a process learns that it runs a trial
STATE_TAG = "sweep.state"  # of a trial's run: how it ended


class TrialChannel(Protocol):
    """What a run needs of the sweep it belongs to."""

    def started(self, run_id: str | None) -> None:
        """Say that the run has begun."""

    def report(self, step: int, values: Mapping[str, float], kept: bool) -> bool:
        """Tells the metrics at an optimizer step; returns whether the run should stop.

        Args:
            step: The optimizer step.
            values: The metrics.
            kept: Whether the checkpoint of this step is the run's best so far.
        """


class PipeChannel:
    """The channel of a run in a process of its own.

    Args:
        descriptor: File descriptor of the connection to the sweep. It closes when the sweep's
            process is gone, and the run ends then, because another worker takes the trial up.
    """

    def __init__(self, descriptor: int) -> None:
        self.connection = Connection(descriptor)
        self.answers: list[bool] = []
        self.answered = threading.Condition()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def started(self, run_id: str | None) -> None:
        """Say that the run has begun."""
        self._send({"run_id": run_id})

    def report(self, step: int, values: Mapping[str, float], kept: bool) -> bool:
        """Sends the metrics and waits for the verdict."""
        self._send({"step": step, "values": dict(values), "kept": kept})
        with self.answered:
            self.answered.wait_for(lambda: self.answers)
            return self.answers.pop()

    def _send(self, message: Mapping[str, Any]) -> None:
        self.connection.send_bytes(json.dumps(message).encode())

    def _listen(self) -> None:
        while True:
            try:
                answer = bool(json.loads(self.connection.recv_bytes()))
            except (EOFError, OSError):
                os.kill(os.getpid(), signal.SIGTERM)
                return
            with self.answered:
                self.answers.append(answer)
                self.answered.notify()
