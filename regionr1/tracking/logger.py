"""MLflow on sqlite beside its artifacts.

Lightning's MLFlowLogger defaults to a file store that MLflow no longer accepts, and puts
checkpoints and artifacts in different folders. Here everything of a run lies in one:
mlruns/<experiment>/<run id>/{artifacts,checkpoints}.
"""

import hashlib
import logging
import os
import secrets
from argparse import Namespace
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from regionr1.errors import UserError, redacted
from regionr1.evaluation.settings import flat
from regionr1.tracking.metric_names import shown_name
from regionr1.tracking.moved import follow
from regionr1.tracking.refusals import refusals
from regionr1.tracking.spool import SpoolingClient

DEFAULT_TRACKING_URI = "sqlite:///mlruns/mlflow.db"
SQLITE_PREFIX = "sqlite:///"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Opens an experiment on its table of runs; MLflow 3.17 follows a switch of its own instead."""
FLUSH_S = 10.0  # how long the end of a run waits for a server that is away


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
        logging.getLogger(name).setLevel(
            logging.WARNING
        )  # dozens of migration lines at the first use
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


def create_experiment(client: Any, tracking_uri: str, name: str) -> str:
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


def open_client(tracking_uri: str) -> SpoolingClient:
    """A client whose spool lies beside a sqlite file, else in mlruns/."""
    path = sqlite_file(tracking_uri)
    return SpoolingClient(tracking_uri, (Path("mlruns") if path is None else path.parent) / "spool")


def _new_name() -> str:
    """Time and chance: MLflow's own names follow the seed, so all runs of one seed share one."""
    return f"{datetime.now():%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _those_set(params: dict[str, Any] | Namespace) -> dict[str, Any]:
    given = params if isinstance(params, dict) else vars(params)
    return {
        name: _those_set(value) if isinstance(value, dict | Namespace) else value
        for name, value in given.items()
        if value is not None and name != "_instantiator"  # Lightning's note to itself
    }


LONGEST = 6000  # characters of a parameter that MLflow keeps


def _told_apart(value: Any) -> str:
    """A parameter; a long one with its digest as its end: two that differ late stay different."""
    text = redacted(str(value))
    if len(text) <= LONGEST:
        return text
    digest = f"... sha256 {hashlib.sha256(text.encode()).hexdigest()}"
    return text[: LONGEST - len(digest)] + digest


MAY_CHANGE = ("trainer.", "data.", "model.scheduler", "seed_everything")
"""Settings that a resumed run may be given anew; the others would make it another experiment."""


def started_otherwise(run_id: str | None, name: str, before: str, now: str) -> UserError:
    """What is told of a setting that a run may not be gone on with."""
    return UserError(
        f"run {run_id} was started with other settings than now: {name} was {before} and is {now}; "
        "drop the override, or start a new run and give it --ckpt_path"
    )


class TrackingLogger(MLFlowLogger):
    """Logs a run to MLflow.

    Args:
        experiment_name: Experiment that the run belongs to; also the folder below the store.
        run_name: Name shown in the MLflow UI; left out, the time and two random bytes.
        tracking_uri: Store. Left out, MLFLOW_TRACKING_URI or sqlite:///mlruns/mlflow.db.
        tags: Tags of the run.
        run_id: Run to continue. Use `--resume RUN_ID` rather than this.
        synchronous: Whether each metric is written at once (true) or by a thread (false).
    """

    def __init__(
        self,
        experiment_name: str = "regionr1",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: dict[str, Any] | None = None,
        run_id: str | None = None,
        synchronous: bool | None = None,
    ) -> None:
        if Path(experiment_name).name != experiment_name:  # it is a folder's name too
            raise UserError(
                f"trainer.logger.init_args.experiment_name is {experiment_name!r}; give a plain "
                "name without slashes"
            )
        uri = prepare_store(tracking_uri or default_tracking_uri())
        path = sqlite_file(uri)
        self.folder = None if path is None else path.parent
        super().__init__(
            experiment_name=experiment_name,
            run_name=run_name or (_new_name() if run_id is None else None),
            tracking_uri=uri,
            tags=tags,
            run_id=run_id,
            synchronous=synchronous,
            artifact_location=artifact_location(uri, experiment_name),
        )
        self._mlflow_client = open_client(uri)
        self.continues = run_id is not None
        """Whether the run was there before."""
        self.evaluated_step: int | None = None
        """Step of the checkpoint that is evaluated, where nothing is trained."""
        self.killed = False
        """Whether a signal ended the run, rather than a failure."""
        self._create_experiment(experiment_name)

    @rank_zero_only
    def _create_experiment(self, name: str) -> None:
        """Creates the experiment here, where Lightning would warn that it has to."""
        create_experiment(self._mlflow_client, self._tracking_uri, name)

    @property
    def shown_uri(self) -> str:
        """The store as a user would type it, without a password."""
        path = sqlite_file(self._tracking_uri)
        if path is not None and path.is_relative_to(Path.cwd()):
            return f"{SQLITE_PREFIX}{path.relative_to(Path.cwd())}"
        return redacted(self._tracking_uri)

    @property
    def save_dir(self) -> str | None:
        """Folder that Lightning puts checkpoints below."""
        return None if self.folder is None else str(self.folder)

    @property
    def name(self) -> str:
        """Experiment name: a folder a person recognises, where Lightning takes its number."""
        return self._experiment_name

    @property
    def experiment(self) -> Any:
        """MLflow's client, with the run made where there was none.

        Raises:
            UserError: The store refuses or cannot be reached.
        """
        with refusals(self._tracking_uri):
            return super().experiment

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Logs the parameters that are set.

        MLflow never changes a parameter: what a resumed run may be given anew, such as more steps,
        becomes a tag `resumed.NAME`.

        Raises:
            UserError: If the run was started with others that may not change.
        """
        from mlflow.entities import Param

        given = {name: _told_apart(value) for name, value in flat(_those_set(params)).items()}
        if self.continues:
            before = self.experiment.get_run(self.run_id).data.params
            changed = {k: v for k, v in given.items() if before.get(k, v) != v}
            if other := [name for name in changed if not name.startswith(MAY_CHANGE)]:
                name = other[0]
                raise started_otherwise(self.run_id, name, before[name], given[name])
            for name, value in changed.items():
                self.experiment.set_tag(self.run_id, f"resumed.{name}", value)
            given = {k: v for k, v in given.items() if k not in before}
        found = [Param(name, value) for name, value in given.items()]
        for start in range(0, len(found), 100):  # MLflow takes so many at once
            self.experiment.log_batch(self.run_id, params=found[start : start + 100])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs metrics at the number of optimizer steps that were done, under MLflow's names.

        Lightning counts the steps of what it hands over from 0, and adds the epoch to it.
        """
        values = dict(metrics)
        if values.pop("epoch", None) is not None:
            step = (step or 0) + 1
        if self.evaluated_step is not None:
            step = self.evaluated_step
        super().log_metrics({shown_name(name): value for name, value in values.items()}, step)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Ends the run; says where its records are if the server is away."""
        if not self._initialized:
            return
        if self.continues and self.evaluated_step is not None:
            return self._flush()  # a test changes neither the length nor the end of a training
        failed = "KILLED" if self.killed else "FAILED"
        ends = {"success": "FINISHED", "finished": "FINISHED", "failed": failed}
        self.experiment.set_terminated(str(self.run_id), ends.get(status, status))
        self._flush()

    def _flush(self) -> None:
        client, run_id = cast(SpoolingClient, self.experiment), str(self.run_id)
        if left := client.flush(run_id, FLUSH_S):
            folder = client.spool(run_id).folder
            print(
                f"the tracking server is away; {left} records are kept. When it is back:\n"
                f"  regionr1 upload {folder}"
            )
