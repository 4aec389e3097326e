"""WebDataset shards and their index: counts, checksums and the scorer's fingerprint.

A split is ``<split>-000000.tar``, ``<split>-000001.tar``... and ``<split>.index.json``. The index
is written last, so a folder with an index holds whole shards. A sample of a tar is an image with
its questions (`regionr1.data.shards.samples`); what the index calls samples are the questions.
Embeddings that another scorer added lie in ``scorer-<digest>/<split>-000000.tar``..., with the keys
of the shards in their order.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import webdataset as wds

from regionr1.data.shards.location import Location, Remote, read_bytes, url_of
from regionr1.errors import UserError
from regionr1.files import file_sha256, parse_json, refused, write_text

FORMAT = "regionr1-shards"
VERSION = 3
_OPTIONAL = ("groups", "examples", "scorers", "embeddings", "main")
# No other folder, and nothing for a shell.
_SHARD_NAME = re.compile(r"[a-z]+-[0-9]{6,}\.tar")
_ADDED_NAME = re.compile(r"scorer-[0-9a-f]{12}/[a-z]+-[0-9]{6,}\.tar")


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One tar: its file name, numbers of questions and of images, content hash, size in bytes."""

    name: str
    samples: int
    images: int
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class AddedScorer:
    """Another scorer's embeddings of the same samples and the same candidates.

    Attributes:
        fingerprint: Identity of the scorer.
        dim: Its embedding dimension.
        full_first: Pairs whose best candidate by the full image is a positive, by this scorer.
        shards: The tars of its embeddings, one for each shard and with the same samples.
    """

    fingerprint: str
    dim: int
    full_first: int
    shards: list[ShardFile]


@dataclass(slots=True)
class ShardIndex:
    """What a split's shards hold and how they were made.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        source: Reader the queries came from.
        k: Most candidates of a query.
        dim: Embedding dimension D.
        n_read: Image-question pairs in the published files.
        n_samples: Pairs in the shards; ``n_read`` is this plus all of ``skipped``.
        skipped: Pairs left out, by reason.
        misses: Pairs whose pool holds no positive, by reason. Kept when evaluating, where they
            count as misses; left out of training, and then in ``skipped`` too.
        n_with_positive: Pairs whose pool holds a positive.
        full_first: Pairs whose best candidate by the full image is a positive.
        knowledge_base: Numbers of entities and images, and what was left out.
        scorer_fingerprint: Identity of the scorer whose embeddings are read.
        built_from: Hash over everything the shards depend on.
        dtype: Of the embeddings on disk, ``float32`` or ``float16``.
        bytes_by_part: Size of all tars by what takes it: ``images``, ``candidates`` and ``full``
            (their embeddings), ``questions`` (the JSON files) and ``tar`` (headers and padding).
        shards: The tars, in order.
        groups: By question type, source and part of the split: pools, and those with a positive.
        examples: Where the first case of a reason is, of those in ``skipped``, ``misses`` and
            ``knowledge_base``.
        scorers: Other scorers whose embeddings were added.
        embeddings: Tars that hold the embeddings, where they are an added scorer's; see `seen_by`.
        main: The index as it is stored, where this one is seen by an added scorer.
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
    dtype: str
    bytes_by_part: dict[str, int]
    shards: list[ShardFile] = field(default_factory=list)
    groups: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    scorers: list[AddedScorer] = field(default_factory=list)
    embeddings: list[ShardFile] = field(default_factory=list)
    main: ShardIndex | None = None

    def seen_by(self, fingerprint: str) -> ShardIndex | None:
        """The index of the same samples with the embeddings of this scorer, if they are there."""
        main = self.main or self
        if fingerprint == main.scorer_fingerprint:
            return main
        for added in main.scorers:
            if added.fingerprint == fingerprint:
                return replace(
                    main,
                    scorer_fingerprint=fingerprint,
                    dim=added.dim,
                    full_first=added.full_first,
                    embeddings=added.shards,
                    main=main,
                )
        return None

    @property
    def n_images(self) -> int:
        """Query images in the shards."""
        return sum(shard.images for shard in self.shards)

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

    def refuse_misfit(self, candidates: Sequence[int], where: str) -> None:
        """Refuse embeddings (K, D) of a sample that are not of these shards' K and D.

        Raises:
            UserError: They are of another size.
        """
        n, dim = candidates
        if n > self.k or dim != self.dim:
            raise UserError(
                f"{where}: has {n} candidates of {dim} numbers where its index says at most "
                f"{self.k} of {self.dim}; build the shards again."
            )

    def save(self, folder: Path) -> None:
        """Write ``<split>.index.json``, whole or not at all."""
        main = self.main or self
        record = {"format": FORMAT, "version": VERSION, **asdict(main)}
        del record["embeddings"], record["main"]
        record["pool_recall"] = main.pool_recall
        record["full_cond_recall_at_1"] = main.full_cond_recall_at_1
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        write_text(index_path(folder, self.split), text)


def index_path(folder: Path, split: str) -> Path:
    """Where a split's index lies."""
    return folder / f"{split}.index.json"


def indexed_splits(folder: Path) -> list[str]:
    """The splits that a folder has shards of.

    Raises:
        UserError: None at all.
    """
    end = ".index.json"
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        raise UserError(f"{folder}: no such folder; build shards first.") from None
    except OSError as error:
        raise refused(folder, error) from error
    splits = sorted(name.removesuffix(end) for name in names if name.endswith(end))
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
        record: dict[str, Any] = parse_json(read_bytes(folder, path))
        if record.get("format") != FORMAT or record.get("version") != VERSION:
            raise UserError(
                f"{where}: of {record.get('format')} version {record.get('version')}, not of "
                f"{FORMAT} version {VERSION}; write the shards again with `regionr1 data shards "
                "--overwrite`, or take the version of regionr1 that wrote them."
            )
        values = {f.name: record[f.name] for f in fields(ShardIndex) if f.name not in _OPTIONAL}
        values |= {name: record.get(name, {}) for name in ("groups", "examples")}
        values["shards"] = _shard_files(record["shards"], _SHARD_NAME, where)
        values["scorers"] = [
            AddedScorer(**{**added, "shards": _shard_files(added["shards"], _ADDED_NAME, where)})
            for added in record.get("scorers", [])
        ]
        counts = [(shard.samples, shard.images) for shard in values["shards"]]
        if any([(s.samples, s.images) for s in a.shards] != counts for a in values["scorers"]):
            raise ValueError("an added scorer has other samples")
        if not all(type(n) is int for n in values["bytes_by_part"].values()):
            raise ValueError("a size in bytes_by_part is no whole number")
        return ShardIndex(**values)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{where}: no index, so {folder} holds no complete {split} shards; build them with "
            "`regionr1 data shards`."
        ) from None
    except OSError as error:
        raise refused(where, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: damaged index ({error}); build the shards again.") from error


def _shard_files(
    records: list[dict[str, Any]], name: re.Pattern[str], where: str
) -> list[ShardFile]:
    shards = [ShardFile(**record) for record in records]
    for shard in shards:
        if not name.fullmatch(shard.name):
            raise UserError(f"{where}: {shard.name!r} is no shard's name; build them again.")
    return shards


def verify_index(
    folder: Location, split: str, expect_fingerprint: str | None = None, checksums: bool = False
) -> ShardIndex:
    """Check that a split's shards are whole and hold the expected scorer's embeddings.

    Args:
        folder: Where the shards are.
        split: Which split.
        expect_fingerprint: Read the embeddings of this scorer, and refuse shards without them;
            None reads those that the shards were made with.
        checksums: Also read every byte and compare its hash. Sizes of local shards are always
            compared; remote shards are only looked at with this.

    Returns:
        The split's index, as the expected scorer sees it.

    Raises:
        UserError: A shard is missing, truncated or altered, or the scorer has no embeddings here.
    """
    index = load_index(folder, split)
    seen = index if expect_fingerprint is None else index.seen_by(expect_fingerprint)
    if seen is None:
        raise UserError(
            f"{url_of(folder, f'{split}.index.json')}: embeddings were made with scorer "
            f"{' and '.join([index.scorer_fingerprint, *(s.fingerprint for s in index.scorers)])}, "
            f"not {expect_fingerprint}; add this scorer's with `regionr1 data add-scorer`, build "
            "the shards again with it, or use the other one."
        )
    check_shards(folder, [*seen.shards, *seen.embeddings], checksums)
    return seen


def check_shards(folder: Location, shards: Iterable[ShardFile], checksums: bool) -> None:
    """Check that tars are whole; `verify_index` says how.

    Raises:
        UserError: One is missing, truncated or altered.
    """
    for shard in shards:
        if isinstance(folder, Remote):
            if checksums:
                _check_stream(folder, shard)
            continue
        path = folder / shard.name
        try:
            _check_size(str(path), path.stat().st_size, shard)
            if checksums and file_sha256(path) != shard.sha256:
                raise _altered(str(path), shard)
        except FileNotFoundError:
            raise UserError(f"{path}: shard is missing; {mend(shard)}.") from None
        except OSError as error:
            raise refused(path, error) from error


def mend(shard: ShardFile) -> str:
    """How to replace a damaged tar."""
    if _ADDED_NAME.fullmatch(shard.name):
        return "copy it again, or add the scorer again with `regionr1 data add-scorer`"
    return "copy or build it again"


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
        raise _altered(url, shard)


def _check_size(where: str, size: int, shard: ShardFile) -> None:
    if size != shard.bytes:
        raise UserError(
            f"{where}: shard has {size:,} bytes where its index says {shard.bytes:,}, perhaps "
            f"a truncated copy; {mend(shard)}."
        )


def _altered(where: str, shard: ShardFile) -> UserError:
    return UserError(f"{where}: shard content was altered; {mend(shard)}.")
