"""The sweep's own run in MLflow, under which the UI nests the runs of its trials."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from regionr1.sweep.plan import SweepPlan
from regionr1.tracking.channel import STATE_TAG
from regionr1.tracking.description import NOTE_TAG
from regionr1.tracking.metric_names import REST
from regionr1.tracking.store import (
    PARENT_TAG,
    create_experiment,
    default_tracking_uri,
    prepare_store,
)

if TYPE_CHECKING:
    from optuna import Study

    from regionr1.tracking.spool import SpoolingClient

PARENT_ATTR = "mlflow_parent_run_id"
REASON_TAG = "sweep.reason"
BEST_TAG, BEST_RUNS_TAG = "sweep.best", "sweep.best_runs"


class ParentRun:
    """One MLflow run per study.

    Args:
        client: MLflow client that outlives its server.
        run_id: The run.
        study: Name of the study.
    """

    def __init__(self, client: SpoolingClient, run_id: str, study: str) -> None:
        self.client = client
        self.run_id = run_id
        self.study = study

    @classmethod
    def open(cls, plan: SweepPlan, study: Study, settings: Mapping[str, Any]) -> ParentRun:
        """The run of a study, made where there is none; the caller holds the study's lock.

        Args:
            plan: The sweep.
            study: Its study, which remembers the run.
            settings: Arguments of the logger that the trials use.
        """
        uri = prepare_store(settings.get("tracking_uri") or default_tracking_uri())
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        from regionr1.tracking.spool import open_client

        client = open_client(uri)
        run_id = study.user_attrs.get(PARENT_ATTR)
        if run_id is not None:
            try:
                client.update_run(run_id, status="RUNNING")
                return cls(client, run_id, plan.study)
            except MlflowException:  # of another tracking store, or deleted
                pass
        experiment = create_experiment(client, uri, settings["experiment_name"])
        tags = {"sweep.study": plan.study, "sweep.file": plan.path.name, "sweep.role": "parent"}
        run = client.create_run(experiment, tags=tags, run_name=plan.study)
        run_id = run.info.run_id
        study.set_user_attr(PARENT_ATTR, run_id)
        client.log_artifact(run_id, str(plan.path), "sweep")
        client.log_batch(run_id, params=[Param(k, v) for k, v in _params(plan).items()])
        return cls(client, run_id, plan.study)

    def tags(self, number: int) -> dict[str, str]:
        """Tags of a trial's run."""
        return {
            PARENT_TAG: self.run_id,
            "sweep.study": self.study,
            "sweep.trial": str(number),
            STATE_TAG: "RUNNING",
        }

    def end(self, run_id: str | None, status: str, reason: str) -> None:
        """Ends a trial's run that could not end itself well.

        Args:
            run_id: The run; None where the trial ended before it had one.
            status: FAILED or KILLED.
            reason: Shown as a tag.
        """
        if run_id is None:
            return
        self.client.set_tag(run_id, STATE_TAG, "FAIL")
        self.client.set_tag(run_id, REASON_TAG, reason[:5000])
        self.client.set_terminated(run_id, status)

    def crown(
        self, best: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, float], note: str
    ) -> None:
        """Tags the best trials' runs, and shows what they were set to and reached.

        Args:
            best: Settings by run, of one trial or of a Pareto front.
            metrics: What a single best reached; shown in the columns of its trials.
            note: The same as text.
        """
        from mlflow.entities import Metric, RunTag

        before = self.client.get_run(self.run_id).data.tags
        former = [run for run in before.get(BEST_RUNS_TAG, "").split(",") if run]
        for run in former:
            if run not in best:
                self.client.set_tag(run, BEST_TAG, "no longer")
        for run in best:
            if run not in former:
                self.client.set_tag(run, BEST_TAG, "yes")
        tags = {NOTE_TAG: note, BEST_RUNS_TAG: ",".join(best)}
        if len(best) == 1:
            (found,) = best.values()
            tags |= {f"best.{key}": str(value) for key, value in found.items()}
        now = int(time.time() * 1000)
        self.client.log_batch(
            self.run_id,
            metrics=[Metric(key, value, now, 0) for key, value in metrics.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def close(self, status: str) -> None:
        """Ends the sweep's run: FINISHED, or KILLED where trials are left."""
        self.client.set_terminated(self.run_id, status)

    def show(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Logs pictures, tables and totals, over those logged before."""
        from mlflow.entities import Metric

        self.client.log_artifacts(self.run_id, str(folder), "sweep")
        now = int(time.time() * 1000)
        self.client.log_batch(
            self.run_id,
            metrics=[Metric(f"{REST}sweep.{key}", value, now, 0) for key, value in metrics.items()],
        )


def _params(plan: SweepPlan) -> dict[str, str]:
    space = {
        f"space.{p.name}": str(list(p.choices) or f"{p.low} .. {p.high}{' log' if p.log else ''}")
        for p in plan.space
    }
    objectives = zip(plan.directions, plan.metrics, strict=True)
    return {
        **space,
        "objectives": ", ".join(f"{direction} {metric}" for direction, metric in objectives),
        "sampler": plan.sampler["class_path"],
        "pruner": plan.pruner["class_path"] if plan.pruner else "none",
        "configs": ", ".join(str(path) for path in plan.configs),
        "set": yaml.safe_dump(plan.fixed, default_flow_style=True).strip(),
    }
