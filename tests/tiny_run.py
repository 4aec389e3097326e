"""The smallest module and data module with the shape of RGRPO and RerankDataModule, to run the
command line on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from regionr1.errors import UserError
from regionr1.evaluation.pictures import Case
from regionr1.evaluation.predictions import Prediction
from regionr1.evaluation.table import Outcome
from regionr1.training.checkpoint import refuse_other_architecture


class TinyPolicy(nn.Module):
    """A frozen layer and a trained one.

    Args:
        rank: Width of the trained layer.
    """

    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.adapter = nn.Linear(3, rank)


class TinyModule(LightningModule):
    """Learns to make the adapter's output small.

    Args:
        policy: The policy.
        group_size: Rollouts per query.
        optimizer: Makes the optimizer.
    """

    def __init__(
        self,
        policy: TinyPolicy,
        group_size: int = 8,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    ) -> None:
        super().__init__()
        if group_size < 2:
            raise UserError(f"group_size must be at least 2, got {group_size}")
        self.save_hyperparameters(ignore=["policy"], logger=False)
        self.policy = policy
        self.group_size = group_size
        self.optimizer = optimizer
        self.strict_loading = False
        self.last_validation_examples: list[Case] = []
        self.test_outcomes: list[Outcome] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        with self.trainer.profiler.profile("decode"):
            hidden = self.policy.frozen(batch)
        loss = self.policy.adapter(hidden).square().mean()
        self.log("loss", loss, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/mrr", -self.policy.adapter(batch).square().mean(), batch_size=len(batch))
        self.last_validation_examples = [
            Case(
                image=Image.new("RGB", (40, 30), (90, 120, 160)),
                question="Where does this bird live?",
                decision="REGION",
                box_px=[5, 5, 25, 25],
                reference_box_px=None,
                rank_full=3.0,
                rank_view=1.0,
            )
        ]

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        for method, ranking in (("full", ["b", "a"]), ("policy", ["a", "b"])):
            rank = ranking.index("a") + 1.0
            self.test_outcomes.append(
                Outcome(f"q{batch_idx}", "a", method, ranking, ["a"], True, rank, 1.0, "FULL")
            )

    def predict_step(self, batch: Tensor, batch_idx: int) -> list[Prediction]:
        query = (f"q{batch_idx}", f"E-VQA_{batch_idx}", "a.png", "Which?", ["a"], (40, 30))
        return [Prediction(*query, "FULL", None, 0.9, 0.9, ["a"], [0.5], ["a"], [0.5])]

    def configure_optimizers(self) -> Any:
        return self.optimizer([p for p in self.parameters() if p.requires_grad])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if ".adapter." in k}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        refuse_other_architecture(self, checkpoint)

    def check_data(self, datamodule: TinyData, stage: str) -> None:
        pass

    def save_adapter(self, folder: Path) -> None:
        torch.save(self.policy.adapter.state_dict(), folder / "adapter.pt")


class Stream(IterableDataset):
    """Endless or finite rows of ones."""

    def __init__(self, length: int | None, fail: Callable[[], None] | None = None) -> None:
        self.length, self.fail = length, fail

    def __iter__(self) -> Iterator[Tensor]:
        if self.fail is not None:
            self.fail()
        yield from (torch.ones(3) for _ in itertools.islice(itertools.count(), self.length))


def broken_shard() -> None:
    raise UserError("shard train-000000.tar is truncated; make the shards again")


class TinyData(LightningDataModule):
    """Rows of ones.

    Args:
        shards: Folder; "broken" makes the reader fail inside its worker.
        batch_size: Rows in a batch.
        num_workers: Loader processes.
    """

    def __init__(self, shards: str, batch_size: int = 4, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size, self.num_workers = batch_size, num_workers
        self.fail = broken_shard if shards == "broken" else None

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Stream(None, self.fail), self.batch_size, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Stream(8), self.batch_size)

    test_dataloader = predict_dataloader = val_dataloader
