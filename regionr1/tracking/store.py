"""The tracking store: MLflow on sqlite beside its artifacts, or a server.

Everything of a run lies in one folder: mlruns/<experiment>/<run id>/{artifacts,checkpoints}. No
training stands behind what is here, so that what only reads runs starts quickly.
"""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from regionr1.errors import UserError
from regionr1.tracking.moved import follow
from regionr1.tracking.refusals import refusals

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DEFAULT_TRACKING_URI = "sqlite:///mlruns/mlflow.db"
SQLITE_PREFIX = "sqlite:///"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Opens an experiment on its table of runs; MLflow 3.17 follows a switch of its own instead."""
PARENT_TAG = "mlflow.parentRunId"  # of a trial: its sweep, which the UI nests it below


def default_tracking_uri() -> str:
    """MLFLOW_TRACKING_URI where it is set, else the sqlite file of this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI


def sqlite_file(tracking_uri: str) -> Path | None:
    """The absolute path of the sqlite file, or None for any other kind of store."""
    if not tracking_uri.startswith(SQLITE_PREFIX):
        return None
    return Path(tracking_uri.removeprefix(SQLITE_PREFIX)).resolve()


def prepare_store(tracking_uri: str) -> str:
    """Creates the database, once, however many processes ask for it at the same time.

    The first connection migrates the schema (seconds), and concurrent first connections break each
    other.

    Args:
        tracking_uri: Store; the path of a sqlite file may be relative.

    Returns:
        The URI to use from here on. MLflow keeps one connection per URI, so a relative path would
        stay with the folder it was first used in.

    Raises:
        UserError: If the store is a folder of files, which MLflow gave up, or cannot be opened or
            reached.
    """
    # A server that is away is tried again soon, from the spool, and must not hold up training.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # files are small
    if "://" not in tracking_uri or tracking_uri.startswith("file:"):
        raise UserError(
            f"tracking_uri {tracking_uri!r} is a file store, which MLflow gave up; "
            f"use {DEFAULT_TRACKING_URI}"
        )
    from mlflow.tracking import MlflowClient

    path = sqlite_file(tracking_uri)
    if path is None:
        with refusals(tracking_uri):
            MlflowClient(tracking_uri).search_experiments(max_results=1)
        return tracking_uri
    uri, folder = f"{SQLITE_PREFIX}{path}", path.parent
    for name in ("alembic", "mlflow.store.db.utils"):
        # They tell dozens of migrations at the first use.
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".mlflow.lock")
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"cannot write the tracking folder {folder}: {error.strerror}; set another tracking_uri"
        ) from error
    try:
        with refusals(tracking_uri):
            if path.exists():
                follow(path)
            MlflowClient(uri).search_experiments(max_results=1)
    finally:
        lock.release()
    return uri


def artifact_location(tracking_uri: str, experiment: str) -> str | None:
    """Where the artifacts of an experiment go: beside a sqlite file, else where the server says.

    Raises:
        UserError: The name would lead elsewhere.
    """
    path = sqlite_file(tracking_uri)
    if path is None:
        return None
    folder = path.parent / experiment
    if path.parent.resolve() not in folder.resolve().parents:
        raise UserError(
            f"experiment_name={experiment!r}: is also the name of a folder in {path.parent}, which "
            "it would leave; choose a plain name."
        )
    return folder.as_uri()


def create_experiment(client: "MlflowClient", tracking_uri: str, name: str) -> str:
    """The id of an experiment, made where there is none, by several processes at once too.

    Raises:
        UserError: If it was deleted.
    """
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            made = client.create_experiment(name, artifact_location(tracking_uri, name), KIND)
            return str(made)
        except MlflowException:  # another process was quicker
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    if known.lifecycle_stage == "deleted":
        raise UserError(
            f"MLflow experiment {name!r} was deleted; run `mlflow experiments restore "
            f"-x {known.experiment_id}` or set another trainer.logger.init_args.experiment_name"
        )
    return str(known.experiment_id)
