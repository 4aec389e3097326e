"""Where the files of a run lie that are not MLflow's: its checkpoints, and its lock."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from regionr1.errors import UserError
from regionr1.tracking.store import sqlite_file
from regionr1.training.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

CHECKPOINT_TAG = "regionr1.checkpoint"  # of a run: where its last checkpoint lies
LAST, BEST = "step-{step:06d}", "best.ckpt"
Which = Literal["best", "last"]


def folder_of(client: "MlflowClient", run: "Run", uri: str) -> Path:
    """The folder of a run in a store: beside the database, wherever that was moved to.

    Args:
        client: MLflow's.
        run: MLflow's run.
        uri: The store.
    """
    experiment = client.get_experiment(run.info.experiment_id).name
    database = sqlite_file(uri)
    home = Path("mlruns") if database is None else database.parent
    beside = home / experiment / run.info.run_id
    tagged = Path(run.data.tags.get(CHECKPOINT_TAG, beside / "checkpoints" / "none")).parent.parent
    return beside if (beside / "checkpoints").is_dir() else tagged


def step_of(path: Path) -> int:
    """The step in the name of one of the last checkpoints; -1 for any other file."""
    found = re.fullmatch(r"step-(\d+)\.ckpt", path.name)
    return int(found[1]) if found else -1


def choose_checkpoint(run: Path, run_id: str, which: Which) -> tuple[Path, str]:
    """The best or the last checkpoint of a run that can be read.

    One that is damaged is told, and the one before it taken.

    Args:
        run: The run's folder.
        run_id: Its id, for messages.
        which: `last` never falls back on the best, which may be from long before.

    Returns:
        The file, and what it is in words.

    Raises:
        UserError: There is none, or none that can be read.
    """
    folder = run / "checkpoints"
    files = sorted(folder.glob("step-*.ckpt"), key=step_of, reverse=True)
    if which == "best" and (folder / BEST).exists():
        files.insert(0, folder / BEST)
    for path in files:
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            print(f"{error}: the one before it is taken", file=sys.stderr)
            continue
        told = f"the last checkpoint of run {run_id}, step {checkpoint['global_step']}"
        best = checkpoint.get("callbacks", {}).get("BestCheckpoint", {})
        if path.name == BEST and best:
            told = told.replace("last", "best", 1) + f", {best['monitor']} {best['score']:.4f}"
        return path, told
    if files:
        raise UserError(f"{folder}: no checkpoint of run {run_id} can be read; start a new run")
    raise UserError(
        f"run {run_id} has no checkpoint in {folder}, so it cannot be resumed; start a new run"
    )
