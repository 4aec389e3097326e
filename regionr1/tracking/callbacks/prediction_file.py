"""`regionr1 predict` writes one file, whatever the number of processes, line by line."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.evaluation.predictions import Prediction, PredictionWriter
from regionr1.evaluation.result_files import ResultFormat, write_results

ENDINGS = {"jsonl": "jsonl", "trec": "trec"}


class PredictionFile(Callback):
    """Writes what predict_step returns as it comes; a batch returns a list of Prediction.

    Lines are in `PATH.partial` until all are there.

    Args:
        path: The file to write; None for `predictions.jsonl`, `.json` or `.trec`.
        format: `jsonl`: all that is known of each query. `echosight`, `omgm`: result files of these
            systems with the new order. `trec`: a run file, and `PATH.qrels` beside it.
    """

    def __init__(self, path: str | None = None, format: ResultFormat = "jsonl") -> None:
        self.path = Path(path or f"predictions.{ENDINGS.get(format, 'json')}")
        self.format: ResultFormat = format
        self.writer: PredictionWriter | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the file, so that one that cannot be written is found before hours go into it.

        Raises:
            UserError: It cannot.
        """
        self.writer = PredictionWriter(self._lines(trainer.global_rank, trainer.world_size))

    def _lines(self, rank: int, world_size: int) -> Path:
        """Where a process writes its lines: the file itself, unless it is joined or rewritten."""
        if world_size == 1 and self.format == "jsonl":
            return self.path
        return self.path.with_name(f"{self.path.name}.rank{rank}")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[Prediction],
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the batch's lines."""
        assert self.writer is not None
        self.writer.write(outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the file; the first process joins what several wrote, and rewrites it if asked."""
        assert self.writer is not None
        self.writer.finish()
        if trainer.world_size > 1:
            trainer.strategy.barrier("predictions")
        if not trainer.is_global_zero:
            return
        parts = [self._lines(rank, trainer.world_size) for rank in range(trainer.world_size)]
        count, notes = self.writer.count, list[str]()
        if parts != [self.path]:
            count, notes = write_results(parts, self.path, self.format)
            for part in parts:
                part.unlink()
        print(f"wrote {count} predictions to {self.path}")
        for note in notes:
            print(note)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Says what there is of a file that was not finished."""
        if self.writer is not None and self.writer.partial.exists():
            self.writer.close()
            print(f"{self.writer.count} predictions so far are in {self.writer.partial}")
