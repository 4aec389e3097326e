"""What a trial tells its sweep of each validation."""

from pathlib import Path

from lightning.pytorch import Trainer
from tiny_run import TinyData, TinyModule, TinyPolicy

from regionr1.tracking.callbacks.checkpoints import BestCheckpoint
from regionr1.tracking.callbacks.trial import TrialCallback


class Recorder:
    def __init__(self) -> None:
        self.reports: list[tuple[int, float, bool]] = []

    def started(self, run_id) -> None:
        assert run_id is None

    def report(self, step, values, kept) -> bool:
        self.reports.append((step, values["val/mrr"], kept))
        return False


class Rising(TinyModule):
    """Whose second validation is its best."""

    def validation_step(self, batch, batch_idx) -> None:
        self.log("val/mrr", (0.0, 0.25, 0.75, 0.5)[self.global_step], batch_size=len(batch))


def test_a_validation_counts_whose_checkpoint_is_kept(tmp_path: Path) -> None:
    channel, best = Recorder(), BestCheckpoint()
    trainer = Trainer(
        accelerator="cpu", max_steps=3, max_epochs=-1, val_check_interval=1,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[TrialCallback(channel, ["val/mrr"], {}), best],
    )  # fmt: skip
    trainer.fit(Rising(TinyPolicy()), TinyData("x"))
    assert channel.reports == [(1, 0.25, True), (2, 0.75, True), (3, 0.5, False)]
    assert best.best_model_score == 0.75
