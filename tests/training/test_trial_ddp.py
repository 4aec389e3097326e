"""Two processes: rank 0 asks whether to stop and writes checkpoints, and both stop together."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tiny_run import TinyData, TinyModule, TinyPolicy

from regionr1.tracking.callbacks.checkpoints import BestCheckpoint, LastCheckpoints
from regionr1.tracking.callbacks.trial import TrialCallback
from regionr1.training.checkpoint import read_checkpoint


class StopsAtTwo:
    """Prunes at step 2, and speaks to one rank only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def started(self, run_id) -> None:
        (self.folder / "started").open("x").close()  # a second rank would fail here

    def report(self, step, values, kept) -> bool:
        assert kept
        (self.folder / f"asked{step}").open("x").close()
        return step == 2


class Steps(Callback):
    """Writes how far each rank came."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer, pl_module) -> None:
        (self.folder / f"rank{trainer.global_rank}").write_text(str(trainer.global_step))


@pytest.mark.slow
def test_all_ranks_stop_together(tmp_path: Path) -> None:
    kept = [LastCheckpoints(every_n_steps=1), BestCheckpoint()]
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp_spawn", max_steps=5, max_epochs=-1,
        val_check_interval=1, check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[TrialCallback(StopsAtTwo(tmp_path), ["x"], {}), Steps(tmp_path), *kept],
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(TinyModule(TinyPolicy(), optimizer=torch.optim.SGD), TinyData("here"))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"started", "asked1", "asked2", "rank0", "rank1", "checkpoints"}
    checkpoints = {path.name: path for path in (tmp_path / "checkpoints").iterdir()}
    assert set(checkpoints) == {"best.ckpt", "step-000001.ckpt", "step-000002.ckpt"}
    last = read_checkpoint(checkpoints["step-000002.ckpt"], trusted=True)
    assert last["global_step"] == 2
    assert {(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)} == {"2"}
