"""Streaming a split's shards: which consumer reads what, in which order, batch by batch.

A consumer is one DataLoader worker of one rank. The samples of all shards, which are questions,
laid end to end, are cut into as many equal runs as there are consumers, so coverage is exact for
any number of shards, ranks and workers; a run may begin or end between two questions about one
image. Rank and world size are given by the main process: asked inside a spawned
worker, torch.distributed is not initialised and every rank would read the same shards.
"""

from __future__ import annotations

import random
import tarfile
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import torch
import webdataset as wds
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from regionr1.data.shards.batch import QueryBatch, collate
from regionr1.data.shards.index import ShardFile, ShardIndex, mend
from regionr1.data.shards.location import Location, Remote, open_shard
from regionr1.data.shards.samples import MEMBERS, ShardImage, ShardSample, with_embeddings
from regionr1.data.shards.tar import read_samples_of_tar
from regionr1.errors import UserError, crossed
from regionr1.files import refused

StartMethod = Literal["fork", "spawn", "forkserver"]


@dataclass(frozen=True, slots=True)
class Slice:
    """Samples ``start`` (included) to ``stop`` (excluded) of shard number ``shard``."""

    shard: int
    start: int
    stop: int


def consumer_range(total: int, consumer: int, consumers: int) -> tuple[int, int]:
    """Range of samples of one consumer; sizes of all ranges differ by at most one."""
    return consumer * total // consumers, (consumer + 1) * total // consumers


def plan_slices(
    counts: Sequence[int], order: Sequence[int], consumer: int, consumers: int
) -> list[Slice]:
    """Slices one consumer reads in one pass; over all consumers every sample occurs once.

    Args:
        counts: Samples of each shard.
        order: Shard numbers in the order they are laid end to end, the same for all consumers.
        consumer: Number of this consumer, from 0.
        consumers: How many there are: ranks times workers per rank.
    """
    first, last = consumer_range(sum(counts), consumer, consumers)
    slices = []
    offset = 0
    for shard in order:
        start, stop = max(first - offset, 0), min(last - offset, counts[shard])
        if start < stop:
            slices.append(Slice(shard, start, stop))
        offset += counts[shard]
    return slices


class ShardStream(IterableDataset[QueryBatch]):
    """Batches of one rank, read by any number of workers.

    Args:
        folder: Where the shards are.
        index: The split's index.
        batch_size: Queries per batch.
        rank: This process's rank, captured in the main process.
        world_size: Number of ranks.
        endless: Training: shuffle, and go on with the next pass for ever. Otherwise one pass in
            shard order with a smaller last batch per worker.
        shuffle_buffer: Samples held undecoded for shuffling when endless; those about one image
            share its bytes.
        seed: Of shard order and shuffling.
    """

    def __init__(
        self,
        folder: Location,
        index: ShardIndex,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        endless: bool = False,
        shuffle_buffer: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.index = index
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.endless = endless
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.first_pass = 0

    def __iter__(self) -> Iterator[QueryBatch]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        batch: list[ShardSample] = []
        for sample in self._samples(self.rank * workers + worker, self.world_size * workers):
            batch.append(sample)
            if len(batch) == self.batch_size:
                yield collate(batch, self.index.k)
                batch = []
        if batch:
            yield collate(batch, self.index.k)

    def n_batches(self, num_workers: int) -> int:
        """Batches of this rank in one finite pass."""
        workers = max(num_workers, 1)
        consumers = self.world_size * workers
        sizes = [
            consumer_range(self.index.n_samples, self.rank * workers + worker, consumers)
            for worker in range(workers)
        ]
        return sum(-(-(last - first) // self.batch_size) for first, last in sizes)

    def _samples(self, consumer: int, consumers: int) -> Iterator[ShardSample]:
        if self.endless and self.index.n_samples < consumers:
            raise UserError(
                f"{self.folder}: {self.index.n_samples} {self.index.split} samples cannot feed "
                f"{consumers} loader workers (ranks x workers); use fewer."
            )
        passes = count(self.first_pass) if self.endless else [0]
        for number in passes:
            for image, questions in self._undecoded(number, consumer, consumers):
                for sample in image.samples(questions):
                    self.index.refuse_misfit(sample.candidates.shape, image.where)
                    yield sample

    def _undecoded(
        self, number: int, consumer: int, consumers: int
    ) -> Iterator[tuple[ShardImage, Sequence[int]]]:
        """The samples of one pass, as images and the numbers of questions about each.

        When endless, the questions about an image are shuffled apart, and each comes alone.
        """
        shards = self.index.shards
        order = list(range(len(shards)))
        if self.endless:
            # All consumers must agree on the order, or their runs would overlap.
            random.Random(f"{self.seed}/{number}").shuffle(order)
        slices = plan_slices([shard.samples for shard in shards], order, consumer, consumers)
        stream = (asked for part in slices for asked in read_slice(self.folder, self.index, part))
        if not self.endless:
            return stream
        apart = ((image, [n]) for image, questions in stream for n in questions)
        rng = random.Random(f"{self.seed}/{number}/{consumer}")
        buffer = max(self.shuffle_buffer, 1)
        return wds.filters.shuffle(buffer, initial=buffer, rng=rng)(apart)


def read_samples(folder: Location, index: ShardIndex) -> Iterator[ShardSample]:
    """Every sample of a split once, in shard order, read in this process.

    Args:
        folder: The shard folder.
        index: The split's index.

    Raises:
        UserError: A shard is corrupt or shorter than its index says.
    """
    return ShardStream(folder, index, batch_size=1)._samples(0, 1)


def samples_of(folder: Location, index: ShardIndex, keys: Set[str]) -> list[ShardSample]:
    """The samples of some keys, in shard order; nothing is read beyond the last of them.

    Args:
        folder: The shard folder.
        index: The split's index.
        keys: Whose samples; those that the split lacks are passed over.

    Raises:
        UserError: A shard is corrupt or shorter than its index says.
    """
    wanted = (sample for sample in read_samples(folder, index) if sample.key in keys)
    return list(islice(wanted, len(keys)))


def read_slice(
    folder: Location, index: ShardIndex, part: Slice
) -> Iterator[tuple[ShardImage, Sequence[int]]]:
    """Undecoded samples of a shard: images, and the numbers of the questions about each.

    Raises:
        UserError: As `read_images`.
    """
    n = 0
    for image in read_images(folder, index, part.shard):
        if questions := range(max(part.start - n, 0), min(part.stop - n, len(image))):
            yield image, questions
        n += len(image)
        if n >= part.stop < index.shards[part.shard].samples:
            return


def read_images(folder: Location, index: ShardIndex, number: int) -> Iterator[ShardImage]:
    """The images of shard number ``number``, each with its questions, undecoded.

    Where the embeddings are another scorer's, its tar is read along, one image at a time.

    Raises:
        UserError: A tar is corrupt or not as long as the index says, or the two do not match.
    """
    shard, n = index.shards[number], 0
    where, samples = _place(folder, shard), _tar_samples(folder, shard)
    if index.embeddings:
        samples = _with_added(folder, samples, where, index.embeddings[number])
    for raw in samples:
        image = ShardImage.of(raw, where)
        n += len(image)
        yield image
    if n != shard.samples:
        raise UserError(
            f"{where}: shard has {n} questions where its index says {shard.samples}; {mend(shard)}."
        )


def _with_added(
    folder: Location, samples: Iterator[dict[str, Any]], where: str, other: ShardFile
) -> Iterator[dict[str, Any]]:
    for raw, more in zip(samples, _tar_samples(folder, other), strict=True):
        if raw["__key__"] != more["__key__"]:
            raise UserError(
                f"{_place(folder, other)}: has sample {more['__key__']} where {where} has "
                f"{raw['__key__']}, so it belongs to other shards; {mend(other)}."
            )
        yield with_embeddings(raw, more)


def _place(folder: Location, shard: ShardFile) -> str:
    return folder.of(shard.name) if isinstance(folder, Remote) else str(folder / shard.name)


def _tar_samples(folder: Location, shard: ShardFile) -> Iterator[dict[str, Any]]:
    path, n = _place(folder, shard), 0
    try:
        with open_shard(folder, shard.name) as file:
            for raw in read_samples_of_tar(file, MEMBERS):
                if n == shard.images:
                    raise tarfile.ReadError("there are more than its index says")
                yield raw
                n += 1
    except FileNotFoundError:
        raise UserError(f"{path}: shard is missing; {mend(shard)}.") from None
    except OSError as error:
        if isinstance(folder, Path):
            raise refused(path, error) from error
        reason = error.args[0] if error.args else type(error).__name__
        raise UserError(f"{path}: cannot be read after {n} samples ({reason}).") from error
    except tarfile.TarError as error:
        raise UserError(
            f"{path}: shard is corrupt after {n} samples ({error}); {mend(shard)}."
        ) from error
    if n < shard.images:
        raise UserError(
            f"{path}: shard ends after {n} samples where its index says {shard.images}; "
            f"{mend(shard)}."
        )


def read_batches(
    stream: ShardStream, num_workers: int, start_method: StartMethod | None
) -> Iterator[QueryBatch]:
    """Run a stream in ``num_workers`` processes (0: in this one).

    This lives here and not with the data module so that spawned workers import no Lightning.

    Raises:
        UserError: Whatever one of the processes met, as the one sentence it was there.
    """
    loader: DataLoader[QueryBatch] = DataLoader(
        stream,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_identity,
        multiprocessing_context=start_method if num_workers else None,
        # Its own generator: worker seeding must not advance the global one that rollouts use.
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except UserError as error:
        raise crossed(error) or error from error


def _identity(item: Any) -> Any:
    """The stream yields whole batches; the loader's own collation must not touch them."""
    return item
