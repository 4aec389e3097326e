"""`regionr1 compare`: runs and their tests from MLflow."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from regionr1.errors import UserError
from regionr1.evaluation.compare import compare as compared
from regionr1.evaluation.outcome_file import OUTCOMES, read_outcomes
from regionr1.evaluation.tested import TestedRun
from regionr1.tracking.refusals import no_run
from regionr1.tracking.store import PARENT_TAG, default_tracking_uri, prepare_store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


def compare(
    runs: tuple[str, ...],
    method: str = "policy",
    tracking_uri: str | None = None,
    resamples: int = 1000,
) -> None:
    """Print what was set differently in runs and what it changed on the same test queries.

    The first run is what the others are compared with. Runs that differ in nothing but seeds are
    also put together, as mean and interval.

    Args:
        runs: Ids or names of tested runs, at least two.
        method: Row of the test table that is compared.
        tracking_uri: Store; left out, MLFLOW_TRACKING_URI or sqlite:///mlruns/mlflow.db.
        resamples: Bootstrap draws.
    """
    if len(set(runs)) < 2 or len(set(runs)) < len(runs):
        raise UserError("compare needs at least two different runs")
    if resamples < 1:
        raise UserError(f"--resamples is {resamples}: set it to 1 or more")
    uri = prepare_store(tracking_uri or default_tracking_uri())
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    tested = list(open_tested(client, runs, uri).values())
    print(compared(tested, method, resamples), end="")


def open_tested(client: "MlflowClient", runs: Sequence[str], uri: str) -> dict[str, TestedRun]:
    """Tested runs by id, under names that tell them apart.

    Args:
        client: MLflow's.
        runs: Ids or names; a sweep's own run stands for those of its trials.
        uri: The store, for messages.

    Raises:
        UserError: If there is no such run, or it was not tested.
    """
    found = [run for name in runs for run in _trials(client, find_by_name(client, name, uri))]
    if len({run.info.run_id for run in found}) < len(found):
        raise UserError("a run is named twice, by itself or by its sweep; name each once")
    names = [run.info.run_name for run in found]
    shown = [
        name if names.count(name) == 1 else f"{name} {run.info.run_id[:8]}"
        for name, run in zip(names, found, strict=True)
    ]
    return {
        run.info.run_id: _read(client, run, name) for run, name in zip(found, shown, strict=True)
    }


def _trials(client: "MlflowClient", run: "Run") -> "list[Run]":
    """The runs under a sweep's own run, oldest first; the run itself where there are none."""
    wanted = f"tags.`{PARENT_TAG}` = '{run.info.run_id}'"
    return client.search_runs(
        [run.info.experiment_id], wanted, order_by=["attributes.start_time ASC"]
    ) or [run]


def find_by_name(client: "MlflowClient", wanted: str, uri: str) -> "Run":
    """A run by id or by name.

    Raises:
        UserError: If there is none, or several of that name.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(wanted)
    except MlflowException:
        pass
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    quoted = wanted.replace("'", "")
    runs = client.search_runs(experiments, f"tags.`mlflow.runName` = '{quoted}'")
    if not runs:
        raise no_run(wanted, uri)
    if len(runs) > 1:
        ids = ", ".join(run.info.run_id for run in runs)
        raise UserError(f"several runs are called {wanted!r}; name one by its id: {ids}")
    return runs[0]


def _read(client: "MlflowClient", run: "Run", name: str) -> TestedRun:
    from mlflow.exceptions import MlflowException

    run_id = run.info.run_id
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = client.download_artifacts(run_id, "config_test.yaml", folder)
            outcomes = client.download_artifacts(run_id, OUTCOMES, folder)
        except (MlflowException, OSError) as error:
            raise UserError(
                f"run {name} has no test to compare; run `regionr1 test --resume {run_id}`"
            ) from error
        return TestedRun(
            name, yaml.safe_load(Path(config).read_text("utf-8")), read_outcomes(Path(outcomes))
        )
