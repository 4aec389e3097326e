"""The stages one after the other: embed, index, pool, write."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from regionr1.data.build.embed import (
    kb_folder,
    kb_identity,
    kb_items,
    planned_queries,
    query_folder,
    query_identity,
)
from regionr1.data.build.embed_run import run_embedding
from regionr1.data.build.pools import build_index, search_pools
from regionr1.data.build.pools_imported import check_import, pools_from_faiss, pools_from_results
from regionr1.data.build.query_store import QueryStore
from regionr1.data.build.stages import EMBED_MEND, PoolOptions, Prepare
from regionr1.data.build.store import EmbeddingStore, store_digest
from regionr1.data.build.store_writer import planned_items
from regionr1.data.build.write import built_from, is_current, pool_request, shards_from_work
from regionr1.data.shards.index import ShardIndex, index_path, verify_index
from regionr1.errors import UserError, at_least_one
from regionr1.files import alone, remove_half_written


def build_shards(options: Prepare) -> list[ShardIndex]:
    """Build the shards of every split; those built from the same before are kept.

    All splits are written to a temporary folder beside ``out`` and moved when all are whole.

    Returns:
        The index of every split, in their order.

    Raises:
        UserError: Bad input, or ``out`` holds other shards and ``overwrite`` is off.
    """
    at_least_one(samples_per_shard=options.samples_per_shard, splits=len(options.splits))
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"{options.out}: is no folder; name another for the shards.")
    splits = tuple(dict.fromkeys(options.splits))
    stale = splits if options.work is not None else _stale(options, splits)
    if stale:
        with _work_folder(options) as work:
            check_import(options)
            run_embedding(replace(options, splits=stale), work)
            make_pools(work, stale, options, options.index_kind)
            shards_from_work(options, options.root, work, stale)
    elif _hidden(options.out).exists():  # killed after the shards were whole
        with alone(_hidden(options.out), "builds shards with it"):
            shutil.rmtree(_hidden(options.out), ignore_errors=True)
    return [verify_index(options.out, split) for split in splits]


def make_pools(
    work: Path, splits: Sequence[str], options: PoolOptions, index_kind: str = "auto"
) -> None:
    """Make the pools of every split from what `embed_kb` and `embed_queries` left.

    Args:
        work: The work folder.
        splits: Which splits.
        options: Where candidates come from.
        index_kind: Kind of our own index, which is built where it is needed and missing.

    Raises:
        UserError: Embeddings are missing or of two scorers, or the import does not fit them.
    """
    kb = EmbeddingStore(kb_folder(work), EMBED_MEND)
    if options.results is None and options.faiss is None:
        build_index(kb, work, index_kind)
    for split in splits:
        queries = QueryStore(query_folder(work, split), EMBED_MEND)
        if options.results is not None:
            pools_from_results(kb, queries, work, split, options.k, options.results)
        elif options.faiss is not None:
            pools_from_faiss(kb, queries, work, split, options.k, options.faiss)
        else:
            search_pools(kb, queries, work, split, options.k)


def _stale(options: Prepare, splits: Sequence[str]) -> tuple[str, ...]:
    """The splits whose shards are not there yet, told from names and sizes of what is read.

    Without a work folder nothing is kept between runs but the shards.
    """
    if not any(index_path(options.out, split).exists() for split in splits):
        return tuple(splits)
    source, scorer = options.open_source(), options.open_scorer()
    request = pool_request(options, options.index_kind)
    identity = kb_identity(source, scorer, options.part_size, options.dtype)
    kb = store_digest(identity, planned_items(kb_items(source), options.part_size))

    def current(split: str) -> bool:
        identity = query_identity(
            source, scorer, split, options.skip_missing, options.part_size, options.dtype
        )
        items = planned_queries(source, split, options.skip_missing, options.part_size)
        queries = store_digest(identity, items)
        made_from = built_from(kb, queries, request, options)
        return is_current(options.out, split, made_from, options.overwrite)

    return tuple(split for split in splits if not current(split))


def _hidden(out: Path) -> Path:
    """The work folder of shards for which the user named none."""
    return out.parent / f".{out.name}.work"


@contextmanager
def _work_folder(options: Prepare) -> Iterator[Path]:
    """The work folder that the user named, or a hidden one that is removed when all is done.

    What a killed or failed run embedded in the hidden one is gone on with, by settings: those of
    other settings are thrown away.
    """
    hidden = _hidden(options.out)
    folder = options.work or hidden
    with alone(folder, "builds shards with it"):
        remove_half_written(folder)
        work = folder
        if options.work is None:
            settings = [options.source, options.open_scorer().fingerprint(), options.dtype]
            text = json.dumps([*settings, options.part_size])
            work = hidden / hashlib.sha256(text.encode()).hexdigest()[:12]
            for other in hidden.iterdir():
                if other.is_dir() and other != work:
                    shutil.rmtree(other, ignore_errors=True)
        try:
            yield work
        except BaseException:
            if options.work is None and not any(work.glob("*/part-*.json")):
                shutil.rmtree(hidden, ignore_errors=True)
            raise
        if options.work is None:
            shutil.rmtree(hidden, ignore_errors=True)
