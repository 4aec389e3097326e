"""Writing the shards of embedded and pooled queries; all splits whole, or none."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regionr1.data.build.embed import NO_IMAGE, kb_folder, query_folder
from regionr1.data.build.label import SplitWork, labelled_images
from regionr1.data.build.pools import open_pools, pool_paths, search_request
from regionr1.data.build.pools_imported import import_request, index_file
from regionr1.data.build.query_store import QueryStore
from regionr1.data.build.stages import EMBED_MEND, PoolOptions, ShardOptions
from regionr1.data.build.store import EmbeddingStore
from regionr1.data.records import SkipReport
from regionr1.data.shards.index import (
    FORMAT,
    VERSION,
    AddedScorer,
    ShardIndex,
    index_path,
    load_index,
    verify_index,
)
from regionr1.data.shards.writer import write_shards
from regionr1.errors import MachineError, UserError, at_least_one
from regionr1.files import alone, refused

_BEFORE = ".before"
"""Where the indices of shards lie while others take their place."""


def pool_request(options: PoolOptions, index_kind: str) -> dict[str, Any]:
    """What decides the pools of given embeddings."""
    if options.results is not None:
        return import_request("results", options.k, options.results)
    if options.faiss is not None:
        return import_request("faiss", options.k, index_file(options.faiss))
    return search_request(options.k, index_kind)


def shards_from_work(
    options: ShardOptions, root: Path, work: Path, splits: Sequence[str] | None = None
) -> list[ShardIndex]:
    """Write the shards of embedded and pooled queries.

    Args:
        options: Where to, and how.
        root: Folder of the published files, for the query images.
        work: The work folder.
        splits: Which splits to write; None takes those of the options.

    Raises:
        UserError: A stage is missing or does not belong to the others; other shards are there.
    """
    splits = options.splits if splits is None else splits
    out, overwrite = options.out, options.overwrite
    at_least_one(samples_per_shard=options.samples_per_shard)
    kb = EmbeddingStore(kb_folder(work), EMBED_MEND)
    stale: list[tuple[SplitWork, str]] = []
    for name in splits:
        queries = QueryStore(query_folder(work, name), EMBED_MEND)
        pools = open_pools(work, name)
        if (pools.about["kb"], pools.about["queries"]) != (kb.digest, queries.digest):
            raise UserError(
                f"{pool_paths(work, name)[1]}: is of other embeddings than {work} holds now; pool "
                "again with `regionr1 data pool`."
            )
        request = pools.about["request"]
        made_from = built_from(kb.digest, queries.digest, request, options)
        if not is_current(out, name, made_from, overwrite):
            stale.append((SplitWork(name, queries, pools), made_from))
    if stale:
        _write(root, kb, options, stale)
    return [verify_index(out, split) for split in splits]


def built_from(kb: str, queries: str, request: dict[str, Any], options: ShardOptions) -> str:
    """Hash over everything that shards depend on."""
    how = [options.samples_per_shard, options.shard_dtype]
    record = [FORMAT, VERSION, kb, queries, request, *how]
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]


def is_current(out: Path, split: str, made_from: str, overwrite: bool) -> bool:
    """Whether ``out`` already holds exactly these shards, whole; other shards raise."""
    if not index_path(out, split).exists():
        return False
    try:
        same = load_index(out, split).built_from == made_from
    except MachineError:
        raise
    except UserError:
        if not overwrite:
            raise
        return False
    if not same and not overwrite:
        raise UserError(
            f"{out}: holds {split} shards built from other files, another scorer or other "
            "settings; name another folder, or allow overwriting."
        )
    if not same:
        return False
    try:
        verify_index(out, split, checksums=True)
    except MachineError:
        raise
    except UserError:
        # The same shards, damaged since: building them again loses nothing.
        return False
    return True


def _write(
    root: Path, kb: EmbeddingStore, options: ShardOptions, work: list[tuple[SplitWork, str]]
) -> None:
    out = options.out
    without = SkipReport()
    without.include(kb.left_out)
    if (first := kb.entity_without_image()) is not None:
        without.add(NO_IMAGE, first, kb.counts["entities"] - kb.counts["owners"])
    numbers = {"entities": kb.counts["entities"], "images": len(kb), **without.counts}
    folder = out.parent / f".{out.name}.partial"
    staging = folder / "shards"
    with alone(folder, f"writes shards to {out}"):
        try:
            shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
            staging.mkdir()
            _write_splits(root, kb, options, staging, work, without, numbers)
            _publish(staging, out, [split.name for split, _ in work])
        except OSError as error:
            raise refused(out, error, "cannot be written") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _write_splits(
    root: Path,
    kb: EmbeddingStore,
    options: ShardOptions,
    staging: Path,
    work: list[tuple[SplitWork, str]],
    without: SkipReport,
    numbers: dict[str, int],
) -> None:
    for split, made_from in work:
        images = labelled_images(split, kb, root, options.shard_dtype)
        files, parts = write_shards(staging, split.name, images, options.samples_per_shard)
        if split.n_with_positive == 0:
            raise UserError(
                f"{root}: no pool of split {split.name!r} holds a positive (of "
                f"{split.misses.total} pools); check that the gold entities are the "
                "knowledge base's keys, or raise k."
            )
        index = ShardIndex(
            split=split.name,
            source=kb.identity["source"],
            k=split.pools.k,
            dim=kb.dim,
            n_read=split.n_read,
            n_samples=split.n_samples,
            skipped=split.skipped.as_dict(),
            misses=split.misses.as_dict(),
            n_with_positive=split.n_with_positive,
            full_first=split.full_first,
            knowledge_base=numbers,
            scorer_fingerprint=kb.identity["scorer"],
            built_from=made_from,
            dtype=options.shard_dtype,
            bytes_by_part=parts,
            shards=files,
            groups=split.groups,
            examples=_portable(root, without, split.misses, split.skipped),
        )
        index.scorers = _added_to_same(options.out, index)
        index.save(staging)


def _portable(root: Path, *reports: SkipReport) -> dict[str, str]:
    """Where the first case of every reason is, without the path of this machine's folder."""
    first = {reason: place for report in reports for reason, place in report.first.items()}
    return {reason: place.replace(f"{root}/", "") for reason, place in first.items() if place}


def _added_to_same(out: Path, index: ShardIndex) -> list[AddedScorer]:
    """Other scorers' embeddings that ``out`` holds of the very shards that were written again."""
    for folder in (out, out / _BEFORE):
        try:
            found = load_index(folder, index.split)
        except MachineError:
            raise
        except UserError:
            continue
        return found.scorers if found.shards == index.shards else []
    return []


def _publish(staging: Path, out: Path, splits: list[str]) -> None:
    """Move whole shards into place; every split's index goes last."""
    (out / _BEFORE).mkdir(parents=True, exist_ok=True)
    for split in splits:
        if index_path(out, split).exists():  # kept until the new one is there: it names scorers
            index_path(out, split).replace(index_path(out / _BEFORE, split))
        for old in out.glob(f"{split}-[0-9]*.tar"):
            old.unlink()
        for tar in sorted(staging.glob(f"{split}-[0-9]*.tar")):
            tar.replace(out / tar.name)
        index_path(staging, split).replace(index_path(out, split))
        kept = {s.name for scorer in load_index(out, split).scorers for s in scorer.shards}
        for old in out.glob(f"scorer-*/{split}-[0-9]*.tar"):
            if f"{old.parent.name}/{old.name}" not in kept:
                old.unlink()
    shutil.rmtree(out / _BEFORE)
