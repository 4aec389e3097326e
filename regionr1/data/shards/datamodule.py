"""RerankDataModule: a folder of shards as Lightning data loaders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from regionr1.data.shards.batch import QueryBatch
from regionr1.data.shards.index import ShardIndex, check_shards, verify_index
from regionr1.data.shards.location import as_location
from regionr1.data.shards.stream import ShardStream, StartMethod, read_batches
from regionr1.errors import UserError

__all__ = ["EvalLoader", "QueryBatch", "RerankDataModule", "TrainLoader"]

_SPLITS: dict[str, tuple[str, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}


class EvalLoader:
    """One finite pass over this rank's share of a split, of known length."""

    def __init__(
        self, stream: ShardStream, num_workers: int, start_method: StartMethod | None
    ) -> None:
        self.stream = stream
        self.num_workers = num_workers
        self.start_method = start_method

    def __len__(self) -> int:
        return self.stream.n_batches(self.num_workers)

    def __iter__(self) -> Iterator[QueryBatch]:
        return read_batches(self.stream, self.num_workers, self.start_method)


class TrainLoader:
    """An endless stream, shuffled anew in every pass over the data; it has no length.

    Iterating again, or resuming from a checkpoint, starts at the next pass: samples already
    prefetched by workers are not replayed, and no pass order is ever used twice.
    """

    def __init__(
        self, stream: ShardStream, num_workers: int, start_method: StartMethod | None
    ) -> None:
        self.stream = stream
        self.num_workers = num_workers
        self.start_method = start_method
        self._delivered = 0

    def __iter__(self) -> Iterator[QueryBatch]:
        self.stream.first_pass = self.next_pass
        self._delivered = 0
        for batch in read_batches(self.stream, self.num_workers, self.start_method):
            self._delivered += len(batch)
            yield batch

    @property
    def next_pass(self) -> int:
        """First pass that has not been started."""
        if self._delivered == 0:
            return self.stream.first_pass
        seen = self._delivered * self.stream.world_size
        return self.stream.first_pass + -(-seen // self.stream.index.n_samples)

    def state_dict(self) -> dict[str, Any]:
        """Where a resumed stream starts."""
        return {"next_pass": self.next_pass}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start at the pass a state dict names."""
        self.stream.first_pass = int(state["next_pass"])
        self._delivered = 0


class RerankDataModule(L.LightningDataModule):
    """Batches of queries with their candidate pools from WebDataset shards.

    Training is an endless stream, so steps and not epochs measure progress. Evaluation covers
    every sample exactly once over all ranks and workers. Predict reads the test split. Embeddings
    are those of the scorer that the shards were made with, until `use_scorer` names an added one.

    Args:
        shards: Folder that `regionr1 data shards` wrote, its URL (http, https, s3, gs), or
            `pipe:COMMAND` with {name} where the file's name goes.
        batch_size: Queries per training step and rank.
        eval_batch_size: Queries per evaluation step and rank.
        num_workers: Loader processes per rank; 0 reads in the main process.
        shuffle_buffer: Undecoded samples each training worker holds for shuffling.
        seed: Of the training order.
        verify_checksums: Hash every shard once before use, on the first rank. Sizes are always
            compared, on every rank. Remote shards are not read twice for this: one that is cut
            short is refused where it ends, and `regionr1 data verify` hashes them.
        start_method: How loader processes start; None leaves the platform's default.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self,
        shards: str,
        batch_size: int = 4,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        shuffle_buffer: int = 512,
        seed: int = 0,
        verify_checksums: bool = True,
        start_method: StartMethod | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("shuffle_buffer", shuffle_buffer, 1),
        ):
            if value < least:
                raise UserError(f"data.{name}={value}: must be at least {least}.")
        self.folder = as_location(shards)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.verify_checksums = verify_checksums
        self.start_method: StartMethod | None = start_method
        self._indices: dict[str, ShardIndex] = {}
        self._train_loader: TrainLoader | None = None
        self._resume_state: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Check the shards a stage reads: whole, unaltered, all of the same scorer."""
        for split in _SPLITS[stage]:
            if split not in self._indices:
                self._indices[split] = verify_index(self.folder, split, checksums=self._checksums)
        self.fingerprint(stage)

    @property
    def _checksums(self) -> bool:
        first_rank = self.trainer is None or self.trainer.is_global_zero
        return self.verify_checksums and first_rank and isinstance(self.folder, Path)

    def use_scorer(self, stage: str, fingerprint: str) -> bool:
        """Read the embeddings of this scorer from now on, if all splits of ``stage`` hold them.

        Returns:
            Whether they do.

        Raises:
            UserError: They are damaged.
        """
        found = {split: self.index(split).seen_by(fingerprint) for split in _SPLITS[stage]}
        seen = {split: index for split, index in found.items() if index is not None}
        if len(seen) < len(found):
            return False
        for index in seen.values():
            check_shards(self.folder, index.embeddings, self._checksums)
        self._indices |= seen
        return True

    def fingerprint(self, stage: str) -> str:
        """Fingerprint of the scorer whose embeddings ``stage`` reads; call after `setup`.

        Raises:
            UserError: The stage's splits were made with different scorers.
        """
        made_with = {self.index(split).scorer_fingerprint for split in _SPLITS[stage]}
        if len(made_with) > 1:
            raise UserError(
                f"{self.folder}: the splits {', '.join(_SPLITS[stage])} were made with different "
                f"scorers ({', '.join(sorted(made_with))}); build them again together."
            )
        return made_with.pop()

    def indices(self, stage: str) -> list[ShardIndex]:
        """The indices of the splits that ``stage`` reads."""
        return [self.index(split) for split in _SPLITS[stage]]

    def index(self, split: str) -> ShardIndex:
        """The index of ``train``, ``val`` or ``test``: counts, pool recall, K and D."""
        if split not in self._indices:
            self._indices[split] = verify_index(self.folder, split)
        return self._indices[split]

    def train_dataloader(self) -> TrainLoader:
        """The endless training stream of this rank."""
        stream = self._stream("train", self.batch_size, endless=True)
        self._train_loader = TrainLoader(stream, self.num_workers, self.start_method)
        if self._resume_state is not None:
            self._train_loader.load_state_dict(self._resume_state)
        return self._train_loader

    def val_dataloader(self) -> EvalLoader:
        """One exact pass over this rank's share of ``val``."""
        return self._eval_loader("val")

    def test_dataloader(self) -> EvalLoader:
        """One exact pass over this rank's share of ``test``."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> EvalLoader:
        """Stream the test split, as `test` does."""
        return self._eval_loader("test")

    def state_dict(self) -> dict[str, Any]:
        """The next pass of the training stream (empty before training)."""
        return {} if self._train_loader is None else self._train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume at the start of the next pass, in an order not seen before, and say so."""
        self._resume_state = dict(state_dict) or None
        if self._resume_state is not None:
            rank_zero_info(
                f"training data: the interrupted pass is not finished; pass "
                f"{self._resume_state['next_pass']} begins, in an order not seen before"
            )
        if self._train_loader is not None and self._resume_state is not None:
            self._train_loader.load_state_dict(self._resume_state)

    def _eval_loader(self, split: str) -> EvalLoader:
        stream = self._stream(split, self.eval_batch_size, endless=False)
        return EvalLoader(stream, self.num_workers, self.start_method)

    def _stream(self, split: str, batch_size: int, endless: bool) -> ShardStream:
        trainer = self.trainer
        return ShardStream(
            self.folder,
            self.index(split),
            batch_size,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
            endless=endless,
            shuffle_buffer=self.shuffle_buffer,
            seed=self.seed,
        )
