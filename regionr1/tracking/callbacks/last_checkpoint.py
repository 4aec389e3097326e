"""Checkpoints of a run: one `last.ckpt`, and the refusal of one that belongs to another model."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from regionr1.errors import UserError
from regionr1.files import replace_whole
from regionr1.tracking.logger import TrackingLogger
from regionr1.tracking.resume import CHECKPOINT_TAG


class LastCheckpoint(Checkpoint):
    """Keeps <run folder>/checkpoints/last.ckpt up to date and tells MLflow where it is.

    Lightning's ModelCheckpoint does not save the steps after the last multiple of its interval, and
    needs a fixed folder to find its own file again.

    Args:
        every_n_steps: Optimizer steps between two checkpoints; the last step is always saved.
    """

    def __init__(self, every_n_steps: int = 25) -> None:
        if every_n_steps < 1:
            raise UserError(f"checkpoint.every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.path: Path | None = None
        self.saved_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Chooses the folder, which only rank 0 knows: it holds the id of the run."""
        if stage != "fit":
            return
        folder = Path(trainer.default_root_dir)
        logger = trainer.logger
        if trainer.is_global_zero and isinstance(logger, TrackingLogger):
            folder = Path(logger.save_dir or folder) / logger.name / str(logger.run_id)
        path: Path = trainer.strategy.broadcast((folder / "checkpoints" / "last.ckpt").resolve())
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that a resumed run has its checkpoint already."""
        self.saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when it is time, and at the last step."""
        step = trainer.global_step
        last = step == trainer.max_steps or trainer.should_stop
        if step != self.saved_step and (last or step % self.every_n_steps == 0):
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves a training that ended for another reason: time, the end of the data."""
        if trainer.global_step != self.saved_step:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Writes the file; the first time, tags the run so that `--resume` finds it.

        It is written beside the old one, which it replaces when its bytes are on the disk.
        Lightning alone copies onto the only checkpoint: a kill or a full disk then leaves none.

        Raises:
            UserError: The disk is full or the folder cannot be written.
        """
        if trainer.fast_dev_run or self.path is None:  # type: ignore[attr-defined]
            return
        partial = self.path.with_name(f".{self.path.name}.partial")  # the same name on every rank
        try:
            trainer.save_checkpoint(partial, weights_only=False)  # optimizer and loops too
            if trainer.is_global_zero:
                replace_whole(partial, self.path)
        except OSError as error:
            if trainer.is_global_zero:
                partial.unlink(missing_ok=True)
            mend = "make room, then start again"
            if self.path.exists():
                mend = "the one before it is kept: make room, then `regionr1 fit --resume last`"
            raise UserError(
                f"{self.path}: the checkpoint of step {trainer.global_step} cannot be written "
                f"({error.strerror or error}); {mend}"
            ) from error
        self.saved_step = trainer.global_step
        if trainer.is_global_zero and isinstance(trainer.logger, TrackingLogger):
            trainer.logger.experiment.set_tag(trainer.logger.run_id, CHECKPOINT_TAG, str(self.path))
