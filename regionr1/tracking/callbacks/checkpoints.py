"""The checkpoints of a run: the last two, and the best by a validation metric.

Lightning's ModelCheckpoint says when, and removes those that are not kept. What it remembers of a
folder is read from the folder itself, which may have been moved, and whose files count.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from regionr1.errors import UserError
from regionr1.files import remove_half_written
from regionr1.tracking.run_files import tracker, trained_in
from regionr1.tracking.run_folder import BEST, CHECKPOINT_TAG, LAST, step_of
from regionr1.training.checkpoint import WholeCheckpoints, read_checkpoint


class KeptCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint in the run's folder, whose files are whole or not there."""

    @property
    def state_key(self) -> str:
        """A resumed run may have other settings."""
        return type(self).__qualname__

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Chooses the folder, which only rank 0 knows: it holds the id of the run."""
        if stage != "fit":
            return
        folder = trainer.strategy.broadcast((trained_in(trainer) / "checkpoints").resolve())
        self.dirpath = str(folder)
        trainer.strategy.checkpoint_io = WholeCheckpoints()
        super().setup(trainer, pl_module, stage)

    def _keep(self, scores: dict[str, torch.Tensor]) -> None:
        """Takes files that are there for its own, under their scores."""
        self.best_k_models = scores
        pick = min if self.mode == "max" else max
        if scores:
            self.kth_best_model_path = pick(scores, key=lambda path: scores[path])
            self.kth_value = scores[self.kth_best_model_path]

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Lightning would keep the one that a run was resumed from for ever."""
        return previous != current


class LastCheckpoints(KeptCheckpoint):
    """Keeps the last two checkpoints and tells MLflow where they are.

    Whatever ends a training, the steps that it has done are saved. A run that is resumed validates
    first where a validation was due when it ended.

    Args:
        every_n_steps: Optimizer steps between two checkpoints; the last step is always saved.
    """

    def __init__(self, every_n_steps: int = 25) -> None:
        if every_n_steps < 1:
            raise UserError(f"checkpoint.every_n_steps must be at least 1, got {every_n_steps}")
        super().__init__(
            filename=LAST,
            auto_insert_metric_name=False,
            monitor="step",
            mode="max",
            save_top_k=2,
            every_n_train_steps=every_n_steps,
            enable_version_counter=False,
        )
        self.every_n_steps = every_n_steps
        self.validated_step = 0

    def state_dict(self) -> dict[str, Any]:
        """Whether the checkpoint's step was validated."""
        return {"validated_step": self.validated_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what the checkpoint says of its step."""
        self.validated_step = state_dict["validated_step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes what a resumed run has already, and validates where that is due."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step
        if trainer.is_global_zero:
            self._tidy(trainer.global_step)
        trainer.strategy.barrier("tidied")
        files = Path(str(self.dirpath)).glob("step-*.ckpt")
        self._keep({str(path): torch.tensor(step_of(path)) for path in files})
        loop = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        due = fetcher is not None and trainer.global_step and loop._should_check_val_fx(fetcher)
        if due and self.validated_step != trainer.global_step:
            trainer.validating = True
            loop.val_loop.run()
            trainer.training = True

    def _tidy(self, step: int) -> None:
        """Removes what a kill left half-written, and all but two of the checkpoints.

        Those beyond the step that training goes on from were found damaged, and are set aside.
        """
        folder = Path(str(self.dirpath))
        remove_half_written(folder)
        for path in folder.glob("step-*.ckpt"):
            if step_of(path) > step:
                path.replace(path.with_suffix(".damaged"))
        for path in sorted(folder.glob("step-*.ckpt"), key=step_of)[:-2]:
            path.unlink()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Saves the step before, whose metrics are logged by now, when it is time."""
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_batch_end(self, *args: object) -> None:
        """Lightning would save before the step is logged: a kill in between loses its metrics."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the step before when it is time, and the last one."""
        step = trainer.global_step
        if step % self.every_n_steps == 0 or step == trainer.max_steps or trainer.should_stop:
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has the checkpoint of this step say that it was validated."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self.validated_step = trainer.global_step
        path = self.format_checkpoint_name(self._monitor_candidates(trainer))
        if path in self.best_k_models:
            self._save_checkpoint(trainer, path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last step, whatever made it the last."""
        self._save(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Saves the steps that were done, unless the weights are broken or in between two steps."""
        between = isinstance(exception, Exception | SIGTERMException)
        weights = [p for p in pl_module.parameters() if p.requires_grad]
        if not (between and all(bool(p.isfinite().all()) for p in weights)):
            return
        try:
            self._save(trainer)
        except UserError as error:  # what ended the training is told, and this beside it
            print(f"no checkpoint of step {trainer.global_step}: {error}")

    def _save(self, trainer: Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Saves, and tags the run so that `--resume` finds it."""
        super()._save_checkpoint(trainer, filepath)
        logger = tracker(trainer)
        if trainer.is_global_zero and logger is not None:
            logger.experiment.set_tag(logger.run_id, CHECKPOINT_TAG, filepath)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Has every checkpoint look as if it was written right after a step.

        Lightning counts steps on from there, whereas it is one behind after a checkpoint that was
        written in a validation. Batches whose gradients did not make a step are counted again.
        """
        if trainer.num_training_batches != float("inf"):
            return
        loop = checkpoint["loops"]["fit_loop"]
        done = trainer.global_step * trainer.accumulate_grad_batches
        for count in loop["epoch_loop.batch_progress"].values():
            if isinstance(count, dict):
                count.update(ready=done, started=done, processed=done, completed=done - 1)
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step - 1


class BestCheckpoint(KeptCheckpoint):
    """Keeps the checkpoint that was best in validation, which `test` and `export` take.

    Args:
        monitor: The metric of a validation that tells.
        mode: Whether more of it is better, or less.
    """

    def __init__(self, monitor: str = "val/mrr", mode: Literal["max", "min"] = "max") -> None:
        super().__init__(
            filename=BEST.removesuffix(".ckpt"),
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """What the file was best by."""
        return {"monitor": self.monitor, "mode": self.mode, "score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The best checkpoint itself says how good it is: it may be newer than the last."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the best that a resumed run has had so far."""
        path = Path(str(self.dirpath)) / BEST
        self._keep({})
        try:
            told = read_checkpoint(path)["callbacks"][self.state_key] if path.exists() else {}
        except UserError as error:
            print(f"{error}; the next validation writes it anew")
            return
        if (told.get("monitor"), told.get("mode")) == (self.monitor, self.mode):
            self._keep({str(path): told["score"]})

    def will_save(self, trainer: Trainer) -> bool:
        """Whether the validation that just ended is the best so far; every rank must ask."""
        return self.check_monitor_top_k(trainer, trainer.callback_metrics.get(str(self.monitor)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves if this is the best so far.

        Raises:
            UserError: If no validation logs the metric.
        """
        logged = trainer.callback_metrics
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self.monitor not in logged:
            known = ", ".join(sorted(name for name in logged if name.startswith("val/")))
            raise UserError(f"best.monitor: no validation logs {self.monitor}; it logs {known}")
        super().on_validation_end(trainer, pl_module)
