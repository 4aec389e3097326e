"""WebDataset shards and their index: counts, checksums and the scorer's fingerprint.

A split is ``<split>-000000.tar``, ``<split>-000001.tar``... and ``<split>.index.json``. The index
is written last, so a folder with an index holds whole shards.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import webdataset as wds

from regionr1.data.location import Location, Remote, read_bytes, url_of
from regionr1.errors import UserError

FORMAT = "regionr1-shards"
VERSION = 1
_SHARD_NAME = re.compile(r"[a-z]+-[0-9]{6,}\.tar")  # no folder, nothing for a shell


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One tar: its file name, number of samples, content hash and size in bytes."""

    name: str
    samples: int
    sha256: str
    bytes: int


@dataclass(slots=True)
class ShardIndex:
    """What a split's shards hold and how they were made.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        source: Reader the queries came from.
        k: Most candidates of a query.
        dim: Embedding dimension D.
        n_read: Image-question pairs in the published files.
        n_samples: Samples in the shards; ``n_read`` is this plus all of ``skipped``.
        skipped: Pairs left out, by reason.
        misses: Pairs whose pool holds no positive, by reason. Kept when evaluating, where they
            count as misses; left out of training, and then in ``skipped`` too.
        n_with_positive: Pairs whose pool holds a positive.
        full_first: Pairs whose best candidate by the full image is a positive.
        knowledge_base: Numbers of entities and images, and what was left out.
        scorer_fingerprint: Identity of the scorer whose embeddings are stored.
        built_from: Hash over everything the shards depend on.
        shards: The tars, in order.
        groups: By question type, source and part of the split: pools, and those with a positive.
    """

    split: str
    source: str
    k: int
    dim: int
    n_read: int
    n_samples: int
    skipped: dict[str, int]
    misses: dict[str, int]
    n_with_positive: int
    full_first: int
    knowledge_base: dict[str, int]
    scorer_fingerprint: str
    built_from: str
    shards: list[ShardFile] = field(default_factory=list)
    groups: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @property
    def n_pools(self) -> int:
        """Pairs a pool was built for: the denominator of `pool_recall`."""
        return self.n_with_positive + sum(self.misses.values())

    @property
    def pool_recall(self) -> float:
        """Share of built pools that hold a positive."""
        return self.n_with_positive / self.n_pools if self.n_pools else 0.0

    @property
    def full_cond_recall_at_1(self) -> float:
        """CondR@1 of the full image: share of pools with a positive that rank one first."""
        return self.full_first / self.n_with_positive if self.n_with_positive else 0.0

    def save(self, folder: Path) -> None:
        """Write ``<split>.index.json``."""
        record = {"format": FORMAT, "version": VERSION, **asdict(self)}
        record["pool_recall"] = self.pool_recall
        record["full_cond_recall_at_1"] = self.full_cond_recall_at_1
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        index_path(folder, self.split).write_text(text, encoding="utf-8")


def index_path(folder: Path, split: str) -> Path:
    """Where a split's index lies."""
    return folder / f"{split}.index.json"


def indexed_splits(folder: Path) -> list[str]:
    """The splits that a folder has shards of.

    Raises:
        UserError: None at all.
    """
    splits = sorted(path.name.removesuffix(".index.json") for path in folder.glob("*.index.json"))
    if not splits:
        raise UserError(f"{folder}: no shard index in this folder; build shards first.")
    return splits


def load_index(folder: Location, split: str) -> ShardIndex:
    """Read a split's index.

    Raises:
        UserError: Missing, damaged, or written by another version of the format.
    """
    path = f"{split}.index.json"
    where = url_of(folder, path) if isinstance(folder, Remote) else str(folder / path)
    try:
        record: dict[str, Any] = json.loads(read_bytes(folder, path))
        if record.get("format") != FORMAT or record.get("version") != VERSION:
            raise UserError(f"{where}: not {FORMAT} version {VERSION}; build the shards again.")
        values = {f.name: record[f.name] for f in fields(ShardIndex) if f.name != "groups"}
        values["groups"] = record.get("groups", {})
        values["shards"] = [ShardFile(**shard) for shard in record["shards"]]
        for shard in values["shards"]:
            if not _SHARD_NAME.fullmatch(shard.name):
                raise UserError(f"{where}: {shard.name!r} is no shard's name; build them again.")
        return ShardIndex(**values)
    except FileNotFoundError:
        raise UserError(
            f"{where}: no index, so {folder} holds no complete {split} shards; build them with "
            "`regionr1 data shards`."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: damaged index ({error}); build the shards again.") from error


def verify_index(
    folder: Location, split: str, expect_fingerprint: str | None = None, checksums: bool = False
) -> ShardIndex:
    """Check that a split's shards are whole and made with the expected scorer.

    Args:
        folder: Where the shards are.
        split: Which split.
        expect_fingerprint: Refuse shards of any other scorer; None accepts all.
        checksums: Also read every byte and compare its hash. Sizes of local shards are always
            compared; remote shards are only looked at with this.

    Returns:
        The split's index.

    Raises:
        UserError: A shard is missing, truncated or altered, or of another scorer.
    """
    index = load_index(folder, split)
    if expect_fingerprint is not None and index.scorer_fingerprint != expect_fingerprint:
        raise UserError(
            f"{url_of(folder, f'{split}.index.json')}: embeddings were made with scorer "
            f"{index.scorer_fingerprint}, not {expect_fingerprint}; build the shards again with "
            "this scorer, or use the other one."
        )
    for shard in index.shards:
        if isinstance(folder, Remote):
            if checksums:
                _check_stream(folder, shard)
            continue
        path = folder / shard.name
        if not path.is_file():
            raise UserError(f"{path}: shard is missing; build the shards again.")
        _check_size(str(path), path.stat().st_size, shard)
        if checksums and file_sha256(path) != shard.sha256:
            raise _altered(str(path))
    return index


def _check_stream(folder: Remote, shard: ShardFile) -> None:
    url = folder.of(shard.name)
    digest, size = hashlib.sha256(), 0
    try:
        with wds.gopen(url) as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise UserError(
            f"{url}: cannot be read ({error.args[0] if error.args else error})."
        ) from error
    _check_size(url, size, shard)
    if digest.hexdigest() != shard.sha256:
        raise _altered(url)


def _check_size(where: str, size: int, shard: ShardFile) -> None:
    if size != shard.bytes:
        raise UserError(
            f"{where}: shard has {size:,} bytes where its index says {shard.bytes:,}, perhaps "
            "a truncated copy; copy or build it again."
        )


def _altered(where: str) -> UserError:
    return UserError(f"{where}: shard content was altered; copy or build it again.")


def write_shards(
    folder: Path, split: str, samples: Iterable[dict[str, Any]], samples_per_shard: int
) -> list[ShardFile]:
    """Write encoded samples as tars, byte for byte the same for the same samples.

    Args:
        folder: An existing folder.
        split: Prefix of the file names.
        samples: Encoded samples (`regionr1.data.samples.encode_sample`).
        samples_per_shard: Samples of every tar but the last.

    Returns:
        The tars written, with their hashes.
    """
    names: list[str] = []
    counts: list[int] = []
    for chunk in _runs(samples, samples_per_shard):
        name = f"{split}-{len(names):06d}.tar"
        n = 0
        with (
            (folder / name).open("wb") as file,
            wds.TarWriter(file, encoder=False, mtime=0) as tar,
        ):
            for sample in chunk:
                tar.write(sample)
                n += 1
        names.append(name)
        counts.append(n)
    return [
        ShardFile(name, n, file_sha256(folder / name), (folder / name).stat().st_size)
        for name, n in zip(names, counts, strict=True)
    ]


def file_sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _runs(samples: Iterable[dict[str, Any]], size: int) -> Iterator[Iterator[dict[str, Any]]]:
    """Cut a stream into consecutive runs without holding one in memory."""
    iterator = iter(samples)
    for first in iterator:
        yield _run(first, iterator, size)


def _run(
    first: dict[str, Any], rest: Iterator[dict[str, Any]], size: int
) -> Iterator[dict[str, Any]]:
    yield first
    for _ in range(size - 1):
        sample = next(rest, None)
        if sample is None:
            return
        yield sample
