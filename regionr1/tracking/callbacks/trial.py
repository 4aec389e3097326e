"""A run that is a trial of a sweep: it reports its validation and stops when it is told to.

Optuna's own callback for Lightning reports at the epoch, which never changes in a run of one
endless epoch, and raises inside the training, which shows the run as failed in MLflow. Here a value
is reported at the optimizer step, rank 0 asks and all ranks stop together, and the run ends as any
other, with a tag.
"""

import json
import os
from collections.abc import Mapping, Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.tracking.callbacks.checkpoints import BestCheckpoint
from regionr1.tracking.channel import STATE_TAG, TRIAL_VARIABLE, PipeChannel, TrialChannel
from regionr1.tracking.run_files import callbacks_of, tracker


class TrialCallback(Callback):
    """Reports the metrics of each validation and stops the run when it is pruned.

    Args:
        channel: The sweep's side; None on other ranks than 0.
        metrics: Names of the metrics to report.
        tags: Tags of the MLflow run.
    """

    def __init__(
        self,
        channel: TrialChannel | None,
        metrics: Sequence[str],
        tags: Mapping[str, str],
    ) -> None:
        self.channel = channel
        self.metrics = list(metrics)
        self.tags = dict(tags)
        self.pruned = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Marks the run as a trial."""
        if self.channel is None or not trainer.is_global_zero:
            return
        logger, run_id = tracker(trainer), None
        if logger is not None:
            from mlflow.entities import RunTag

            run_id = logger.run_id
            logger.experiment.log_batch(
                run_id,
                tags=[RunTag(key, value) for key, value in self.tags.items()],
            )
        self.channel.started(run_id)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports, and stops on all ranks when rank 0 is told to."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        stop = False
        # Lightning asks checkpoints last, so what is best by now is not saved yet.
        kept = all([best.will_save(trainer) for best in callbacks_of(trainer, BestCheckpoint)])
        if self.channel is not None and trainer.is_global_zero:
            logged = trainer.callback_metrics
            values = {name: float(logged[name]) for name in self.metrics if name in logged}
            stop = self.channel.report(trainer.global_step, values, kept)
        if trainer.strategy.broadcast(stop):
            self.pruned = trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how the trial ended."""
        logger = tracker(trainer)
        if trainer.is_global_zero and logger is not None:
            state = "PRUNED" if self.pruned else "COMPLETE"
            logger.experiment.set_tag(logger.run_id, STATE_TAG, state)


def trial_from_environment() -> list[Callback]:
    """The callback of a process that a sweep started, or nothing."""
    text = os.environ.get(TRIAL_VARIABLE)
    if text is None:
        return []
    spec = json.loads(text)
    descriptor = spec.pop("connection")
    # Further ranks stop with rank 0, but only rank 0, the process started, holds the connection.
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    return [TrialCallback(PipeChannel(descriptor) if is_first else None, **spec)]
