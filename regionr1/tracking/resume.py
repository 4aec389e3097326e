"""`--resume RUN_ID`: a run is continued or evaluated with its configuration and last checkpoint.

Lightning alone needs three options that must fit each other (the run id, the checkpoint file, the
same configuration) and trains from scratch with only a warning when they do not.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from regionr1.errors import UserError
from regionr1.tracking.logger import prepare_store

CONFIG_ARTIFACT = "config.yaml"  # of a run: its resolved config
CHECKPOINT_TAG = "regionr1.checkpoint"  # of a run: where its last checkpoint lies
SHARED_KEYS = (
    "seed_everything",
    "trainer",
    "model",
    "data",
    "checkpoint",
    "gallery",
    "system_metrics",
)  # what all verbs understand


@dataclass
class ResumableRun:
    """What is needed to go on: run id, checkpoint file and configuration."""

    run_id: str
    checkpoint: Path
    config: dict[str, Any]

    def arguments(self, config_file: Path, into_run: bool) -> list[str]:
        """Writes the configuration to `config_file`; returns the options that go on from there.

        Args:
            config_file: Where to write it.
            into_run: Whether to log into the run itself, rather than into a new one.
        """
        config_file.write_text(yaml.safe_dump(self.config, sort_keys=False), encoding="utf-8")
        return [
            *("-c", str(config_file)),
            *("--ckpt_path", str(self.checkpoint)),
            *(("--trainer.logger.init_args.run_id", self.run_id) if into_run else ()),
        ]


MEASURED_BY = ("-c", "--config", "--data", "--model", "--trainer.limit_")
"""Options that change what an evaluation measures."""
HOW_ONLY = ("--data.num_workers", "--data.eval_batch_size", "--data.batch_size")


def measures_otherwise(options: Sequence[str]) -> list[str]:
    """Names among options of `validate` or `test` under which the figures are not the run's own."""
    names = [option.partition("=")[0] for option in options if option.startswith("-")]
    return [n for n in names if n.startswith(MEASURED_BY) and not n.startswith(HOW_ONLY)]


def find_run(run: str, tracking_uri: str) -> ResumableRun:
    """Looks a run up.

    Args:
        run: MLflow run id, or "last" for the newest run that wrote a checkpoint.
        tracking_uri: Store to look in.

    Raises:
        UserError: If there is no such run, or it has no checkpoint or no configuration.
    """
    import mlflow
    from mlflow.artifacts import load_text
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    tracking_uri = prepare_store(tracking_uri)
    client = MlflowClient(tracking_uri)
    if run == "last":
        run = newest_run(client, tracking_uri)
    try:
        found = client.get_run(run)
    except MlflowException as error:
        raise UserError(
            f"there is no run {run!r} in {tracking_uri}; "
            f"`mlflow ui --backend-store-uri {tracking_uri}` shows them"
        ) from error
    checkpoint = Path(found.data.tags.get(CHECKPOINT_TAG, "never-written"))
    if not checkpoint.is_file():
        raise UserError(
            f"run {run} has no last checkpoint ({checkpoint}), so it cannot be resumed; "
            "start a new run"
        )
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for one small file
    mlflow.set_tracking_uri(tracking_uri)  # load_text knows no other way
    try:
        text = load_text(f"{found.info.artifact_uri}/{CONFIG_ARTIFACT}")
    except (MlflowException, OSError) as error:
        raise UserError(
            f"run {run} has no artifact {CONFIG_ARTIFACT}, so it cannot be resumed; start a new run"
        ) from error
    config = yaml.safe_load(text)
    return ResumableRun(run, checkpoint, {key: config[key] for key in SHARED_KEYS if key in config})


def newest_run(client: Any, tracking_uri: str) -> str:
    """Id of the newest run with a checkpoint.

    Raises:
        UserError: If there is none.
    """
    experiments: Sequence[Any] = client.search_experiments()
    runs = client.search_runs(
        [experiment.experiment_id for experiment in experiments],
        filter_string=f"tags.`{CHECKPOINT_TAG}` != ''",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not runs:
        raise UserError(
            f"no run in {tracking_uri} has a checkpoint yet; train one with `regionr1 fit`"
        )
    return str(runs[0].info.run_id)
