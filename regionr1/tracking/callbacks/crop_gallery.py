"""Crops over time: a picture of what the policy does with the same few validation queries."""

from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.evaluation.pictures import crop_grid
from regionr1.tracking.callbacks.reported import ReportedModule
from regionr1.tracking.run_files import keep_picture


class CropGallery(Callback):
    """Logs a PNG of crops before training and after validations.

    The first one is drawn from the sanity check: without a picture at step 0, where MLflow's image
    comparison opens, it shows nothing at all.

    The module shows what it saw in `last_validation_examples`.

    Args:
        every_n_steps: Optimizer steps between two pictures at least; 0 turns them off.
        examples: Queries shown in one picture.
    """

    def __init__(self, every_n_steps: int = 50, examples: int = 8) -> None:
        self.every_n_steps = every_n_steps
        self.examples = examples
        self.last_step: int | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws rank 0's examples."""
        if self.every_n_steps == 0 or not trainer.loggers:
            return
        step = trainer.global_step
        if trainer.sanity_checking and step > 0:  # resumed
            return
        if self.last_step is not None and step - self.last_step < self.every_n_steps:
            return
        if not trainer.is_global_zero:
            return
        shown = cast(ReportedModule, pl_module).last_validation_examples[: self.examples]
        if not shown:
            return
        self.last_step = step
        keep_picture(trainer, crop_grid(shown), "crops", step)
