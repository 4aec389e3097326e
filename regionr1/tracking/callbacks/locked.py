"""A run is locked while it is trained."""

from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.tracking.lock import RunLock
from regionr1.tracking.run_files import tracker, trained_in


class Locked(Callback):
    """Holds the lock of the run that is trained, on rank 0."""

    def __init__(self) -> None:
        self.lock: RunLock | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the lock of the run that is to be trained.

        Raises:
            UserError: Another process trains the run.
        """
        logger = tracker(trainer)
        if stage == "fit" and trainer.is_global_zero and logger is not None:
            self.lock = RunLock(trained_in(trainer), logger.run_id)

    def release(self) -> None:
        """Gives the run's lock up."""
        if self.lock is not None:
            self.lock.release()
        self.lock = None
