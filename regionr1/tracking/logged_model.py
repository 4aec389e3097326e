"""The trained adapter in MLflow's list of models, with the run that made it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regionr1.evaluation.settings import settings
from regionr1.tracking.logger import TrackingLogger
from regionr1.tracking.refusals import done_without

PREFIX = "model.policy"


def log_adapter(logger: TrackingLogger, folder: Path, step: int, config: Mapping[str, Any]) -> None:
    """Lists an adapter as a model; where the server is away, the run's folder `adapter` is all.

    Args:
        logger: Of the run that trained it.
        folder: The adapter.
        step: Optimizer steps it was trained for.
        config: The run's resolved config; the policy's settings become the model's.
    """
    from mlflow.entities import LoggedModelOutput

    client, run_id = logger.experiment, logger.run_id
    chosen = {k: str(v)[:500] for k, v in settings(config).items() if k.startswith(PREFIX)}
    with done_without("the adapter is not in its list of models"):
        model = client.create_logged_model(
            str(logger.experiment_id),
            name="adapter",
            source_run_id=run_id,
            model_type="LoRA adapter",
            params=chosen,
        )
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
