"""The candidates of all pools of some shards, to embed them and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from regionr1.data.npy import map_npy, to_npy
from regionr1.data.shards.index import ShardIndex
from regionr1.data.shards.stream import read_images
from regionr1.files import write_whole


class CandidateSet:
    """A set of (entity, image) pairs in 8 bytes each: pools of millions name most of a KB.

    Two pairs in ten million share their 8 bytes once in 400,000 sets; one image too many is then
    embedded, and never used.

    Args:
        digests: Of the pairs, sorted.
    """

    def __init__(self, digests: np.ndarray) -> None:
        self.digests = digests

    @classmethod
    def of(cls, folder: Path, indices: Iterable[ShardIndex]) -> CandidateSet:
        """Open the candidates that shards hold.

        Raises:
            UserError: A shard is corrupt.
        """
        found = np.empty(0, np.uint64)
        for index in indices:
            for number in range(len(index.shards)):
                here: set[int] = set()
                for image in read_images(folder, index, number):
                    record = image.record
                    pairs = zip(record["candidate_ids"], record["candidate_images"], strict=True)
                    here.update(_digest(pair) for pair in pairs)
                found = np.union1d(found, np.array(sorted(here), np.uint64))
        return cls(found)

    @classmethod
    def load(cls, path: Path) -> CandidateSet:
        """The set that `save` wrote."""
        return cls(map_npy(path, "add the scorer again"))

    def save(self, path: Path) -> None:
        """Write the set, whole or not at all."""
        write_whole(path, lambda file: file.write(to_npy(self.digests)))

    def __len__(self) -> int:
        return len(self.digests)

    def __contains__(self, pair: tuple[str, str]) -> bool:
        digest = np.uint64(_digest(pair))
        place = int(np.searchsorted(self.digests, digest))
        return place < len(self.digests) and bool(self.digests[place] == digest)


def _digest(pair: tuple[str, str]) -> int:
    return int.from_bytes(hashlib.blake2b(json.dumps(pair).encode(), digest_size=8).digest())
