"""`--resume RUN_ID`: a run is continued or evaluated with its configuration and last checkpoint.

Lightning alone needs three options that must fit each other (the run id, the checkpoint file, the
same configuration) and trains from scratch with only a warning when they do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from regionr1.errors import HIDDEN, UserError, redacted
from regionr1.evaluation.settings import flat
from regionr1.tracking.lock import refuse_trained, trainer_of
from regionr1.tracking.logger import MAY_CHANGE, started_otherwise
from regionr1.tracking.refusals import no_run, refusals
from regionr1.tracking.run_folder import CHECKPOINT_TAG, Which, choose_checkpoint, folder_of
from regionr1.tracking.store import PARENT_TAG, prepare_store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

CONFIG_ARTIFACT = "config.yaml"  # of a run: its resolved config
SHARED_KEYS = (
    "seed_everything",
    "trainer",
    "model",
    "data",
    "checkpoint",
    "best",
    "gallery",
    "system_metrics",
)  # what all verbs understand


@dataclass
class ResumableRun:
    """What is needed to go on.

    Attributes:
        run_id: The run.
        checkpoint: File of the checkpoint.
        told: What that is, in words.
        config: The configuration.
        tags: The run's tags.
    """

    run_id: str
    checkpoint: Path
    told: str
    config: dict[str, Any]
    tags: dict[str, str]

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

    def refuse_what_a_config_must_not_bring(self, options: Sequence[str]) -> None:
        """Refuses commands that only the config of the run names, and secrets it does not hold.

        Args:
            options: What the user gave.

        Raises:
            UserError: Names the setting, which the user has to give again.
        """
        given = {option.partition("=")[0].removeprefix("--") for option in options}
        for key, value in flat(self.config).items():
            if key in given or not isinstance(value, str):
                continue
            if value.startswith("pipe:"):
                raise UserError(
                    f"run {self.run_id} would have a command run for {key}; if you want that, "
                    f"give it yourself: --{key} '{value}'"
                )
            if HIDDEN in redacted(value):
                raise UserError(
                    f"run {self.run_id} does not keep the secret in {key} ({redacted(value)}); "
                    f"give it again: --{key}"
                )

    def refuse_other_settings(self, config: Mapping[str, Any]) -> None:
        """Refuses to train on with other settings than the run has had.

        Args:
            config: The resolved configuration.

        Raises:
            UserError: Names the first that differs, in full.
        """
        before, now = flat(self.config), flat(config)
        for key in before.keys() & now.keys():
            if key.startswith("model.") and not key.startswith(MAY_CHANGE):
                if before[key] != now[key]:
                    raise started_otherwise(self.run_id, key, repr(before[key]), repr(now[key]))

    def refuse_other_data(self, fingerprint: str) -> None:
        """Refuses to train on with other training data.

        Raises:
            UserError: It is other data.
        """
        before = self.tags.get(TRAINED_ON, fingerprint)
        if before != fingerprint:
            raise UserError(
                f"run {self.run_id} was trained on other data (fingerprint {before}, now "
                f"{fingerprint}); drop the override, or start a new run and give it --ckpt_path"
            )


TRAINED_ON = "data.train"  # tag of a run: the fingerprint of its training split

MEASURED_BY = ("-c", "--config", "--data", "--model", "--trainer.limit_")
"""Options that change what an evaluation measures."""
HOW_ONLY = ("--data.num_workers", "--data.eval_batch_size", "--data.batch_size")


def measures_otherwise(options: Sequence[str]) -> list[str]:
    """Names among options of `validate` or `test` under which the figures are not the run's own."""
    names = [option.partition("=")[0] for option in options if option.startswith("-")]
    return [n for n in names if n.startswith(MEASURED_BY) and not n.startswith(HOW_ONLY)]


def find_run(run: str, tracking_uri: str, which: Which = "last") -> ResumableRun:
    """Looks a run up.

    Args:
        run: MLflow run id, or "last" for the newest run that wrote a checkpoint, is no trial of a
            sweep and is not being trained.
        tracking_uri: Store to look in.
        which: Its checkpoint.

    Raises:
        UserError: If there is no such run, it is being trained, or it has no checkpoint or no
            configuration.
    """
    import mlflow
    from mlflow.artifacts import load_text
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    tracking_uri = prepare_store(tracking_uri)
    client = MlflowClient(tracking_uri)
    with refusals(tracking_uri):
        if run == "last":
            found = newest_run(client, tracking_uri)
            run = str(found.info.run_id)
        else:
            found = find_by_id(client, run, tracking_uri)
        folder = folder_of(client, found, tracking_uri)
    refuse_trained(folder, run)
    checkpoint, told = choose_checkpoint(folder, run, which)
    mlflow.set_tracking_uri(tracking_uri)  # load_text knows no other way
    try:
        text = load_text(f"{found.info.artifact_uri}/{CONFIG_ARTIFACT}")
    except (MlflowException, OSError) as error:
        raise UserError(
            f"run {run} has no artifact {CONFIG_ARTIFACT}, so it cannot be resumed; start a new run"
        ) from error
    config = yaml.safe_load(text)
    kept = {key: config[key] for key in SHARED_KEYS if key in config}
    logger = (kept.get("trainer") or {}).get("logger")
    if isinstance(logger, dict) and (logger.get("init_args") or {}).get("tracking_uri"):
        logger["init_args"]["tracking_uri"] = tracking_uri  # where it was found; secrets included
    return ResumableRun(run, checkpoint, told, kept, dict(found.data.tags))


def newest_run(client: "MlflowClient", tracking_uri: str) -> "Run":
    """The newest run with a checkpoint that is no trial and is not being trained.

    Raises:
        UserError: If there is none.
    """
    experiments = client.search_experiments()
    page, passed = None, []
    while True:
        runs = client.search_runs(
            [experiment.experiment_id for experiment in experiments],
            filter_string=f"tags.`{CHECKPOINT_TAG}` != ''",
            order_by=["attributes.start_time DESC"],
            max_results=100,
            page_token=page,
        )
        for run in runs:
            if PARENT_TAG in run.data.tags:
                passed.append("trials of a sweep")
            elif trainer_of(folder_of(client, run, tracking_uri)) is not None:
                passed.append("runs that are being trained")
            else:
                return run
        page = runs.token
        if not page:
            break
    if passed:
        raise UserError(
            f"the only runs with a checkpoint are {' and '.join(sorted(set(passed)))}; name one by "
            "its id"
        )
    raise UserError(
        f"no run in {redacted(tracking_uri)} has a checkpoint yet; train one with `regionr1 fit`"
    )


def find_by_id(client: "MlflowClient", run: str, tracking_uri: str) -> "Run":
    """The run of an id.

    Raises:
        UserError: If there is none.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise no_run(run, tracking_uri) from error
