"""A picture of what training changed: the first test queries, before and after."""

from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlparse

from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.algorithm.boxes import crop_px
from regionr1.data.shards.batch import QueryBatch
from regionr1.evaluation.pictures import Case, before_after
from regionr1.evaluation.table import Outcome
from regionr1.tracking.callbacks.reported import ReportedModule
from regionr1.tracking.run_files import keep_picture, other_folder, tracker

PICTURE = "before_after"


class BeforeAfter(Callback):
    """Draws the warm start's and the trained policy's choices on the first test queries.

    They are the first of the split whose pool holds a positive, and otherwise not chosen.

    Args:
        examples: Queries shown at most.
    """

    def __init__(self, examples: int = 6) -> None:
        self.examples = examples
        self.drawn_at: str | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts without a picture."""
        self.drawn_at = None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws rank 0's first batch, whose outcomes the module has just collected."""
        if batch_idx or not trainer.is_global_zero or not trainer.loggers:
            return
        found = {(o.method, o.key): o for o in cast(ReportedModule, pl_module).test_outcomes}
        if not isinstance(batch, QueryBatch) or ("warm_start", batch.keys[0]) not in found:
            return
        positive = (batch.labels & batch.valid).any(-1).nonzero()[:, 0].tolist()
        shown = positive[: self.examples]
        if not shown:
            return
        before, after = (
            [
                example(batch, b, found[method, batch.keys[b]], found["full", batch.keys[b]])
                for b in shown
            ]
            for method in ("warm_start", "policy")
        )
        keep_picture(trainer, before_after(before, after), PICTURE)
        logger = tracker(trainer)
        folder = str(other_folder(trainer))
        if logger is not None:
            folder = logger.experiment.get_run(logger.run_id).info.artifact_uri
        self.drawn_at = shown_path(folder, f"{PICTURE}.png")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says where the picture is, now that no progress bar is in the way."""
        if self.drawn_at is not None:
            print(f"before and after training: {self.drawn_at}")


def example(batch: QueryBatch, b: int, chosen: Outcome, full: Outcome) -> Case:
    """Query `b` as the gallery shows it."""
    width, height = batch.widths[b], batch.heights[b]
    reference = batch.reference_box_unit[b]
    return Case(
        image=batch.images[b],
        question=batch.questions[b],
        decision=chosen.decision,
        box_px=None if chosen.box_unit is None else crop_px(chosen.box_unit, width, height),
        reference_box_px=crop_px(reference, width, height)
        if bool(reference.isfinite().all())
        else None,
        rank_full=full.rank,
        rank_view=chosen.rank,
    )


def shown_path(folder: str, name: str) -> str:
    """An artifact's place as text for people: a path, relative where that is shorter."""
    url = urlparse(folder)
    if url.scheme != "file":
        return f"{folder}/{name}"
    path = Path(unquote(url.path)) / name
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
