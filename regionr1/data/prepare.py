"""From published files to shards: read, embed, retrieve, write; whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from regionr1.data.encode import SplitWork, encode_queries
from regionr1.data.pool import PoolBuilder, embed_knowledge_base
from regionr1.data.records import Entity, SkipReport
from regionr1.data.shards import (
    FORMAT,
    VERSION,
    ShardIndex,
    file_sha256,
    index_path,
    load_index,
    verify_index,
    write_shards,
)
from regionr1.data.source import Source
from regionr1.errors import UserError

if TYPE_CHECKING:
    from regionr1.modules.scorer import Scorer


@dataclass(frozen=True, slots=True)
class _Settings:
    """What decides the content of shards, besides files and scorer."""

    k: int
    skip_missing: bool
    samples_per_shard: int


def prepare_shards(
    source: Source,
    scorer: Scorer,
    out: Path,
    splits: Sequence[str] = ("train", "val", "test"),
    k: int = 20,
    skip_missing: bool = False,
    overwrite: bool = False,
    samples_per_shard: int = 256,
    batch_size: int = 64,
) -> list[ShardIndex]:
    """Build the shards of every split.

    All splits are written to a temporary folder beside ``out`` and moved when all are whole.
    Shards already there and built from the same files, scorer and settings are kept. ``train``
    keeps only queries whose pool holds a positive; the other splits keep all.

    Args:
        source: Reader of the published files.
        scorer: The frozen dual encoder.
        out: Folder of the shards.
        splits: Which splits to build.
        k: Candidates per query.
        skip_missing: Leave out and count queries whose image is missing or unreadable.
        overwrite: Replace shards that were built from something else.
        samples_per_shard: Samples of every tar but the last.
        batch_size: Images per scorer call.

    Returns:
        The index of every split, in the order of ``splits``.

    Raises:
        UserError: Bad input, or ``out`` holds other shards and ``overwrite`` is off.
    """
    out = Path(out)
    if min(k, samples_per_shard, batch_size) < 1 or not splits:
        raise UserError("k, samples_per_shard and batch_size must be positive, splits not empty.")
    settings = _Settings(k, skip_missing, samples_per_shard)
    entities = list(source.entities())
    base: dict[str, Any] = {
        "format": [FORMAT, VERSION],
        "source": source.name,
        "scorer": scorer.fingerprint(),
        "settings": asdict(settings),
        "kb": _sizes(path for entity in entities for path in entity.image_paths),
    }
    work = [_read_split(source, name, skip_missing, base) for name in dict.fromkeys(splits)]
    stale = [split for split in work if not _is_current(out, split, overwrite)]
    if stale:
        _build(source, scorer, out, stale, entities, settings, batch_size)
    return [verify_index(out, split.name) for split in work]


def _read_split(source: Source, name: str, skip_missing: bool, base: dict[str, Any]) -> SplitWork:
    skipped = SkipReport()
    queries = source.queries(name, skipped, skip_missing)
    if not queries:
        raise UserError(f"{source.root}: split {name!r} has no usable question.")
    identity = {
        **base,
        "split": name,
        "files": [
            [path.name, file_sha256(path)] for path in (*source.files(name), *source.kb_files())
        ],
        "queries": _sizes(query.image_path for query in queries),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return SplitWork(name, queries, skipped, digest[:32], n_read=len(queries) + skipped.total)


def _sizes(paths: Iterable[Path]) -> str:
    """Hash of image names and sizes: sees replaced images without reading them all."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _is_current(out: Path, split: SplitWork, overwrite: bool) -> bool:
    """Whether ``out`` already holds exactly these shards, whole; other shards raise."""
    if not index_path(out, split.name).exists():
        return False
    try:
        same = load_index(out, split.name).built_from == split.built_from
    except UserError:
        if not overwrite:
            raise
        return False
    if not same and not overwrite:
        raise UserError(
            f"{out}: holds {split.name} shards built from other files, another scorer or other "
            "settings; name another folder, or allow overwriting."
        )
    if not same:
        return False
    try:
        verify_index(out, split.name, checksums=True)
    except UserError:
        # The same shards, damaged since: building them again loses nothing.
        return False
    return True


def _build(
    source: Source,
    scorer: Scorer,
    out: Path,
    work: list[SplitWork],
    entities: list[Entity],
    settings: _Settings,
    batch_size: int,
) -> None:
    kb_report = SkipReport()
    kb = embed_knowledge_base(entities, scorer, kb_report, source.root, batch_size)
    pools = PoolBuilder(kb, settings.k)
    numbers = {"entities": len(kb.known_ids), "images": len(kb.entity_ids), **kb_report.as_dict()}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out}: cannot be created ({error.strerror}).") from error
    try:
        for split in work:
            encoded = encode_queries(split, scorer, pools, settings.skip_missing, batch_size)
            files = write_shards(staging, split.name, encoded, settings.samples_per_shard)
            if split.n_with_positive == 0:
                raise UserError(
                    f"{source.root}: no pool of split {split.name!r} holds a positive (of "
                    f"{split.misses.total} pools); check that wikipedia_url matches the "
                    "knowledge base's keys, or raise k."
                )
            ShardIndex(
                split=split.name,
                source=source.name,
                k=pools.k,
                dim=int(kb.embeddings.shape[1]),
                n_read=split.n_read,
                n_samples=split.n_samples,
                skipped=split.skipped.as_dict(),
                misses=split.misses.as_dict(),
                n_with_positive=split.n_with_positive,
                full_first=split.full_first,
                knowledge_base=numbers,
                scorer_fingerprint=scorer.fingerprint(),
                built_from=split.built_from,
                shards=files,
            ).save(staging)
        _publish(staging, out, [split.name for split in work])
    except OSError as error:
        raise UserError(f"{out}: writing shards failed ({error}).") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, out: Path, splits: list[str]) -> None:
    """Move whole shards into place; every split's index goes last."""
    # mkdtemp makes private folders; the published one follows the user's umask.
    out.mkdir(exist_ok=True)
    for split in splits:
        index_path(out, split).unlink(missing_ok=True)
        for old in out.glob(f"{split}-[0-9]*.tar"):
            old.unlink()
        for tar in sorted(staging.glob(f"{split}-[0-9]*.tar")):
            tar.replace(out / tar.name)
        index_path(staging, split).replace(index_path(out, split))
