"""Logging a training to the tracking store.

Lightning's MLFlowLogger defaults to a file store that MLflow no longer accepts, and puts
checkpoints and artifacts in different folders.
"""

import hashlib
import secrets
from argparse import Namespace
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from regionr1.errors import UserError, redacted
from regionr1.evaluation.settings import flat
from regionr1.tracking.metric_names import shown_name
from regionr1.tracking.refusals import refusals
from regionr1.tracking.store import (
    SQLITE_PREFIX,
    artifact_location,
    create_experiment,
    default_tracking_uri,
    prepare_store,
    sqlite_file,
)

if TYPE_CHECKING:
    from regionr1.tracking.spool import SpoolingClient

FLUSH_S = 10.0  # how long the end of a run waits for a server that is away


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


def _told_apart(value: object) -> str:
    """A parameter; a long one with its digest as its end: two that differ late stay different."""
    text = redacted(str(value))
    if len(text) <= LONGEST:
        return text
    digest = f"... sha256 {hashlib.sha256(text.encode()).hexdigest()}"
    return text[: LONGEST - len(digest)] + digest


MAY_CHANGE = ("trainer.", "data.", "model.scheduler", "seed_everything")
"""Settings that a resumed run may be given anew; the others would make it another experiment."""


def started_otherwise(run_id: str, name: str, before: str, now: str) -> UserError:
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
        from regionr1.tracking.spool import open_client  # MLflow, which takes a second to import

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
    def run_id(self) -> str:
        """The run, made where there was none; on rank 0."""
        return cast(str, super().run_id)

    @property
    def experiment(self) -> "SpoolingClient":
        """MLflow's client, with the run made where there was none.

        Raises:
            UserError: The store refuses or cannot be reached.
        """
        with refusals(self._tracking_uri):
            return cast("SpoolingClient", super().experiment)

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
        self.experiment.set_terminated(self.run_id, ends.get(status, status))
        self._flush()

    def _flush(self) -> None:
        client, run_id = self.experiment, self.run_id
        if left := client.flush(run_id, FLUSH_S):
            folder = client.spool(run_id).folder
            print(
                f"the tracking server is away; {left} records are kept. When it is back:\n"
                f"  regionr1 upload {folder}"
            )
