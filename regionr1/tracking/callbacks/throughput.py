"""Seconds per query, as metrics that a sweep can weigh against accuracy."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

TRAIN, VALIDATION = "workings/train_s_per_query", "val/s_per_query"


class Throughput(Callback):
    """Logs seconds per query of training, and of deciding and ranking in validation.

    Queries are those of one rank; the number is of this machine under its present load.
    """

    def __init__(self) -> None:
        self.begin = 0.0
        self.seconds = 0.0
        self.queries = 0

    def on_train_batch_start(self, *args: object) -> None:
        """Starts the clock of this batch."""
        self.begin = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Logs the seconds per query of this training step."""
        seconds = time.perf_counter() - self.begin
        pl_module.log(TRAIN, seconds / len(batch), batch_size=len(batch))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the times of the validation before."""
        self.seconds, self.queries = 0.0, 0

    def on_validation_batch_start(self, *args: object) -> None:
        """Starts the clock of this batch."""
        self.begin = time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the time and the queries of a validation batch."""
        self.seconds += time.perf_counter() - self.begin
        self.queries += len(batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the seconds per query of the whole validation."""
        if self.queries:
            pl_module.log(VALIDATION, self.seconds / self.queries, batch_size=self.queries)
