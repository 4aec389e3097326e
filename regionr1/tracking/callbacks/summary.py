"""What a training ends with: one block that says how it went, where to look and what comes next."""

import os
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.progress import duration
from regionr1.tracking.channel import TRIAL_VARIABLE
from regionr1.tracking.description import describe
from regionr1.tracking.run_files import other_folder, tracker

TRAINING = "workflowType=machine_learning"  # else MLflow 3.17 shows its pages for agents
MEASURES = ("val/cond_recall_at_1", "val/mrr")


class Summary(Callback):
    """Prints the block after a training, and keeps it in the run's description.

    Its best validation is that of CondR@1, or of MRR where no pool holds a positive.
    """

    def __init__(self) -> None:
        self.begin = 0.0
        self.validations: dict[str, dict[int, float]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.begin = time.monotonic()
        self.validations = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers what a validation found."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        for name in MEASURES:
            value = float(trainer.callback_metrics.get(name, float("nan")))
            if value == value:
                self.validations.setdefault(name, {})[trainer.global_step] = value

    def best(self) -> str:
        """The best validation in words."""
        for name in MEASURES:
            found = self.validations.get(name)
            if found:
                step = max(found, key=lambda step: found[step])
                last = max(found)
                also = "" if step == last else f" ({found[last]:.4f} at the end)"
                return f"{name} {found[step]:.4f} at step {step}{also}"
        return "no validation yet"

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the block, on rank 0."""
        logger = tracker(trainer)
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        best, took = self.best(), duration(time.monotonic() - self.begin)
        steps = f"{trainer.global_step} steps, this time in {took}"
        if logger is None:
            print(f"\ntraining: {steps}\n  best validation  {best}")
            if trainer.loggers:
                print(f"  files            {other_folder(trainer)}")
            return
        describe(logger, "Training", f"{steps}. Best validation: {best}.")
        name = logger.experiment.get_run(logger.run_id).info.run_name
        print(f"\nrun {name}: {steps}\n  best validation  {best}")
        if TRIAL_VARIABLE in os.environ:
            return
        if logger.folder is not None:
            folder = logger.folder / str(logger.name) / logger.run_id
            here = folder.is_relative_to(Path.cwd())
            print(f"  files            {folder.relative_to(Path.cwd()) if here else folder}")
        page = f"#/experiments/{logger.experiment_id}/runs/{logger.run_id}?{TRAINING}"
        if logger.shown_uri.startswith("http"):
            print(f"  look             {logger.shown_uri.rstrip('/')}/{page}")
        else:
            print(f"  look             mlflow ui --backend-store-uri {logger.shown_uri}")
            print(f"                   http://127.0.0.1:5000/{page}")
        print(f"  next             regionr1 test --resume {logger.run_id}")
