"""The progress of a run: optimizer steps, reward and what the last validation said."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from regionr1.progress import progress

SHOWN = {"reward": "reward", "val/cond_recall_at_1": "val CondR@1"}


class Progress(ProgressBar):
    """A bar of optimizer steps on a terminal, a line a minute in a log.

    Lightning's own would count epochs, of which an endless stream has one, and leads with the loss,
    which is about 0 by construction.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.bar: tqdm[Any] | None = None
        self.evaluation: tqdm[Any] | None = None

    def disable(self) -> None:
        """Shows no progress from here on."""
        self.enabled = False

    def enable(self) -> None:
        """Shows progress from here on."""
        self.enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether anything is shown."""
        return self.enabled

    @property
    def is_disabled(self) -> bool:
        """Whether nothing is shown."""
        return not self.enabled

    def print(self, *args: object, **kwargs: object) -> None:
        """Prints a line above the bar."""
        tqdm.write(" ".join(map(str, args)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins at the step that a resumed run has."""
        if self.enabled:
            total = trainer.max_steps if trainer.max_steps > 0 else None
            start = trainer.global_step
            self.bar = progress(None, "training", total, "step", initial=start, smoothing=0.05)

    def on_train_batch_end(self, *args: object) -> None:
        """Shows the optimizer step that was done."""
        if self.bar is None:
            return
        known = self.trainer.callback_metrics
        values = {text: f"{known[name]:.3f}" for name, text in SHOWN.items() if name in known}
        self.bar.set_postfix(values, refresh=False)
        self.bar.update(self.trainer.global_step - self.bar.n)

    def on_train_end(self, *args: object) -> None:
        """Ends the bar."""
        self._close()

    def on_exception(self, *args: object) -> None:
        """Ends every bar."""
        self._close()

    def _close(self) -> None:
        for bar in (self.evaluation, self.bar):
            if bar is not None:
                bar.close()
        self.bar = self.evaluation = None

    def _begin(self, what: str, batches: float) -> None:
        if self.enabled and not self.trainer.sanity_checking:
            total = None if batches == float("inf") else int(batches)
            self.evaluation = progress(None, what, total, "batch", leave=False)

    def _advance(self) -> None:
        if self.evaluation is not None:
            self.evaluation.update()

    def _end(self) -> None:
        if self.evaluation is not None:
            self.evaluation.close()
        self.evaluation = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows a validation while it lasts."""
        self._begin("validating", sum(trainer.num_val_batches))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the batches of a test."""
        self._begin("testing", sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the batches of a prediction."""
        self._begin("predicting", sum(trainer.num_predict_batches))

    def on_validation_batch_end(self, *args: object, **kwargs: object) -> None:
        """Shows that a batch is done."""
        self._advance()

    def on_validation_end(self, *args: object) -> None:
        """Ends the bar of this evaluation."""
        self._end()

    def on_test_batch_end(self, *args: object, **kwargs: object) -> None:
        """Shows that a batch is done."""
        self._advance()

    def on_test_end(self, *args: object) -> None:
        """Ends the bar of this evaluation."""
        self._end()

    def on_predict_batch_end(self, *args: object, **kwargs: object) -> None:
        """Shows that a batch is done."""
        self._advance()

    def on_predict_end(self, *args: object) -> None:
        """Ends the bar of this evaluation."""
        self._end()
