"""`regionr1 predict` writes one JSONL file, whatever the number of processes."""

import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.errors import UserError
from regionr1.evaluation.predictions import Prediction, write_predictions
from regionr1.files import write_text


class PredictionFile(Callback):
    """Collects what predict_step returns and writes it when all queries are done.

    A batch returns a list of Prediction.

    Args:
        path: The file to write.
    """

    def __init__(self, path: str = "predictions.jsonl") -> None:
        self.path = Path(path)
        self.predictions: list[Prediction] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts empty, and finds out whether the file can be written before hours go into it.

        Raises:
            UserError: If it cannot.
        """
        self.predictions = []
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            raise UserError(
                f"predictions.path {self.path} cannot be written ({error.strerror}); name another"
            ) from error

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[Prediction],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the records, which are small; images are not among them."""
        self.predictions.extend(outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file; with several processes each writes a part and rank 0 joins them."""
        if trainer.world_size == 1:
            count = write_predictions(self.path, self.predictions)
        else:
            parts = [
                self.path.with_name(f".{self.path.name}.rank{rank}")
                for rank in range(trainer.world_size)
            ]
            write_predictions(parts[trainer.global_rank], self.predictions)
            trainer.strategy.barrier("predictions")
            if not trainer.is_global_zero:
                return
            lines = [part.read_text(encoding="utf-8") for part in parts]
            count = sum(text.count("\n") for text in lines)
            write_text(self.path, "".join(lines), mend="name another predictions.path")
            for part in parts:
                part.unlink()
        print(f"wrote {count} predictions to {self.path}")
