"""Writing tars of encoded images: whole, and byte for byte the same for the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import webdataset as wds

from regionr1.data.shards.index import ShardFile
from regionr1.data.shards.samples import bytes_by_part
from regionr1.files import file_sha256, write_whole


def write_shards(
    folder: Path,
    split: str,
    images: Iterable[tuple[dict[str, Any], int]],
    samples_per_shard: int,
) -> tuple[list[ShardFile], dict[str, int]]:
    """Write encoded images as the tars of a split.

    Args:
        folder: An existing folder.
        split: Prefix of the file names.
        images: Images with their questions (`regionr1.data.shards.samples.pack_image`), and how
            many questions each has.
        samples_per_shard: Most questions of a tar; an image with more has a tar of its own.

    Returns:
        The tars with their hashes, and their bytes by part.
    """
    parts: Counter[str] = Counter()
    samples: list[int] = []

    def shard_of(asked: tuple[dict[str, Any], int]) -> int:
        """Number of the tar that an image goes into; counts the image too."""
        image, n = asked
        parts.update(bytes_by_part(image))
        if not samples or samples[-1] + n > samples_per_shard:
            samples.append(0)
        samples[-1] += n
        return len(samples) - 1

    shards = []
    for number, members in groupby(images, shard_of):
        path = folder / f"{split}-{number:06d}.tar"
        n = write_tar(path, (image for image, _ in members))
        size = path.stat().st_size
        shards.append(ShardFile(path.name, samples[number], n, file_sha256(path), size))
    parts["tar"] = sum(shard.bytes for shard in shards) - parts.total()
    return shards, dict(parts)


def write_tar(path: Path, images: Iterable[dict[str, Any]]) -> int:
    """Write encoded images as one tar, whole or not at all, and return how many there were.

    The images are streamed into the file: a shard's images are never all in memory.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    n = 0

    def write(file: BinaryIO) -> None:
        nonlocal n
        with wds.TarWriter(file, encoder=False, mtime=0) as tar:
            for image in images:
                tar.write(image)
                n += 1

    write_whole(path, write)
    return n
