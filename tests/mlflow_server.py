"""An MLflow server of one's own on localhost."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

START_S = 240  # the first start on an empty database writes its tables


def free_port() -> int:
    """A port of localhost that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def serve(folder: Path, port: int, store: str | None = None) -> subprocess.Popen:
    """Starts a server and waits until it answers.

    Args:
        folder: Where it runs; artifacts come into its folder `store`.
        port: Where it listens.
        store: URI of its database; left out, folder/mlruns/mlflow.db.
    """
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
                *("--port", str(port), "--workers", "1"),
                *("--backend-store-uri", store or f"sqlite:///{folder}/mlruns/mlflow.db"),
                *("--artifacts-destination", str(folder / "store")),
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder,
        )
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            return process
        except OSError:
            time.sleep(0.3)
    kill(process)
    raise AssertionError(f"the server did not start: {(folder / 'server.log').read_text()}")


def kill(process: subprocess.Popen) -> None:
    """Ends a server and its workers at once."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
