"""From published files to shards: embed, index, pool, write; every stage whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from regionr1.data.build.embed import (
    NO_IMAGE,
    EmbedOptions,
    embed_kb,
    embed_queries,
    kb_folder,
    kb_identity,
    kb_items,
    query_folder,
    query_identity,
    query_items,
)
from regionr1.data.build.imported import (
    import_request,
    index_file,
    pools_from_faiss,
    pools_from_results,
)
from regionr1.data.build.label import SplitWork, encode_queries
from regionr1.data.build.pools import (
    build_index,
    open_pools,
    pool_paths,
    search_pools,
    search_request,
)
from regionr1.data.build.store import EmbeddingStore, store_digest
from regionr1.data.build.store_writer import planned_items
from regionr1.data.readers.base import SPLITS, Source
from regionr1.data.records import SkipReport
from regionr1.data.shards.index import (
    FORMAT,
    VERSION,
    AddedScorer,
    ShardIndex,
    index_path,
    load_index,
    verify_index,
    write_shards,
)
from regionr1.errors import UserError, at_least_one

if TYPE_CHECKING:
    from regionr1.scorers.base import Scorer

EMBED_MEND = "embed with `regionr1 data embed`"


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """Where candidates come from.

    Attributes:
        k: Candidates per query.
        index: Kind of our own index; see `regionr1.data.build.pools.build_index`.
        results: Result file of EchoSight or OMGM to import instead of searching.
        faiss: Index of EchoSight or OMGM to search instead of our own.
    """

    k: int = 20
    index: str = "auto"
    results: Path | None = None
    faiss: Path | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k={self.k}: a pool needs at least one candidate.")
        if self.results is not None and self.faiss is not None:
            raise UserError("results and faiss are two sources of pools: give one of them.")
        for path in (self.results, self.faiss):
            if path is not None and not path.exists():
                raise UserError(f"{path}: no such file or folder.")

    def request(self) -> dict[str, Any]:
        """What decides the pools of given embeddings."""
        if self.results is not None:
            return import_request("results", self.k, self.results)
        if self.faiss is not None:
            return import_request("faiss", self.k, index_file(self.faiss))
        return search_request(self.k, self.index)


def prepare_shards(
    source: Source,
    scorer: Scorer,
    out: Path,
    splits: Sequence[str] = SPLITS,
    k: int = 20,
    skip_missing: bool = False,
    overwrite: bool = False,
    samples_per_shard: int = 256,
    batch_size: int = 64,
    work: Path | None = None,
    pools: PoolOptions | None = None,
) -> list[ShardIndex]:
    """Build the shards of every split.

    All splits are written to a temporary folder beside ``out`` and moved when all are whole.
    Shards already there and built from the same files, scorer and settings are kept.

    Args:
        source: Reader of the published files.
        scorer: The frozen dual encoder.
        out: Folder of the shards.
        splits: Which splits to build.
        k: Candidates per query, where ``pools`` does not say.
        skip_missing: Leave out and count queries whose image is missing or unreadable.
        overwrite: Replace shards that were built from something else.
        samples_per_shard: Samples of every tar but the last.
        batch_size: Images per scorer call.
        work: Folder that keeps embeddings, index and pools; a killed run goes on from there. None
            uses a temporary one.
        pools: Where candidates come from.

    Returns:
        The index of every split, in the order of ``splits``.

    Raises:
        UserError: Bad input, or ``out`` holds other shards and ``overwrite`` is off.
    """
    out = Path(out)
    if min(k, samples_per_shard, batch_size) < 1 or not splits:
        raise UserError("k, samples_per_shard and batch_size must be positive, splits not empty.")
    pools = pools or PoolOptions(k)
    options = EmbedOptions(batch_size)
    splits = list(dict.fromkeys(splits))
    stale = splits
    if work is None:
        # Nothing is kept between runs but the shards: see from names and sizes if they are current.
        request = pools.request()
        kb = planned_items(kb_items(source), options.part_size)
        kb = store_digest(kb_identity(source, scorer, options), kb)
        stale = []
        for split in splits:
            items = query_items(source, split, SkipReport(), skip_missing)
            identity = query_identity(source, scorer, split, skip_missing, options)
            queries = store_digest(identity, planned_items(items, options.part_size))
            built_from = _built_from(kb, queries, request, samples_per_shard)
            if not _is_current(out, split, built_from, overwrite):
                stale.append(split)
    if stale:
        temporary = None
        try:
            if work is None:
                out.parent.mkdir(parents=True, exist_ok=True)
                temporary = Path(mkdtemp(prefix=f".{out.name}.work-", dir=out.parent))
            folder = work or temporary
            assert folder is not None
            embed_kb(source, scorer, folder, options)()
            for split in stale:
                embed_queries(source, scorer, folder, split, skip_missing, options)()
            make_pools(folder, stale, pools)
            shards_from_work(source.root, folder, out, stale, overwrite, samples_per_shard)
        except OSError as error:
            raise UserError(f"{out}: building shards failed ({error}).") from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
    return [verify_index(out, split) for split in splits]


def make_pools(work: Path, splits: Sequence[str], options: PoolOptions) -> None:
    """Make the pools of every split from what `embed_kb` and `embed_queries` left.

    Raises:
        UserError: Embeddings are missing or of two scorers, or the import does not fit them.
    """
    kb = EmbeddingStore(kb_folder(work), EMBED_MEND)
    if options.results is None and options.faiss is None:
        build_index(kb, work, options.index)
    for split in splits:
        queries = EmbeddingStore(query_folder(work, split), EMBED_MEND)
        if options.results is not None:
            pools_from_results(
                kb, queries, work, split, options.k, options.results,
                lambda row, store=queries: json.loads(store.row(row)[1])["data_id"],  # type: ignore[misc]
            )  # fmt: skip
        elif options.faiss is not None:
            pools_from_faiss(kb, queries, work, split, options.k, options.faiss)
        else:
            search_pools(kb, queries, work, split, options.k)


def shards_from_work(
    root: Path,
    work: Path,
    out: Path,
    splits: Sequence[str],
    overwrite: bool = False,
    samples_per_shard: int = 256,
) -> list[ShardIndex]:
    """Write the shards of embedded and pooled queries.

    Args:
        root: Folder of the published files, for the query images.
        work: The work folder.
        out: Folder of the shards.
        splits: Which splits to write.
        overwrite: Replace shards that were built from something else.
        samples_per_shard: Samples of every tar but the last.

    Raises:
        UserError: A stage is missing or does not belong to the others; other shards are there.
    """
    at_least_one(samples_per_shard=samples_per_shard)
    kb = EmbeddingStore(kb_folder(work), EMBED_MEND)
    stale: list[tuple[SplitWork, str]] = []
    for name in splits:
        queries = EmbeddingStore(query_folder(work, name), EMBED_MEND)
        pools = open_pools(work, name)
        if (pools.about["kb"], pools.about["queries"]) != (kb.digest, queries.digest):
            raise UserError(
                f"{pool_paths(work, name)[1]}: is of other embeddings than {work} holds now; pool "
                "again with `regionr1 data pool`."
            )
        request = pools.about["request"]
        built_from = _built_from(kb.digest, queries.digest, request, samples_per_shard)
        if not _is_current(out, name, built_from, overwrite):
            stale.append((SplitWork(name, queries, pools), built_from))
    if stale:
        _write(root, kb, out, stale, samples_per_shard)
    return [verify_index(out, split) for split in splits]


def _built_from(kb: str, queries: str, request: dict[str, Any], samples_per_shard: int) -> str:
    record = [FORMAT, VERSION, kb, queries, request, samples_per_shard]
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]


def _is_current(out: Path, split: str, built_from: str, overwrite: bool) -> bool:
    """Whether ``out`` already holds exactly these shards, whole; other shards raise."""
    if not index_path(out, split).exists():
        return False
    try:
        same = load_index(out, split).built_from == built_from
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
    except UserError:
        # The same shards, damaged since: building them again loses nothing.
        return False
    return True


def _write(
    root: Path,
    kb: EmbeddingStore,
    out: Path,
    work: list[tuple[SplitWork, str]],
    samples_per_shard: int,
) -> None:
    counts = dict(kb.counts)
    n_entities, n_owners = counts.pop("entities"), counts.pop("owners")
    numbers = {"entities": n_entities, "images": counts.pop("rows"), **counts}
    if n_entities > n_owners:
        numbers[NO_IMAGE] = n_entities - n_owners
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out}: cannot be created ({error.strerror}).") from error
    try:
        for split, built_from in work:
            encoded = encode_queries(split, kb, root)
            files = write_shards(staging, split.name, encoded, samples_per_shard)
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
                built_from=built_from,
                shards=files,
                groups=split.groups,
            )
            index.scorers = _added_to_same(out, index)
            index.save(staging)
        _publish(staging, out, [split.name for split, _ in work])
    except OSError as error:
        raise UserError(f"{out}: writing shards failed ({error}).") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _added_to_same(out: Path, index: ShardIndex) -> list[AddedScorer]:
    """Other scorers' embeddings that ``out`` holds of the very shards that were written again."""
    try:
        found = load_index(out, index.split)
    except UserError:
        return []
    return found.scorers if found.shards == index.shards else []


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
        kept = {s.name for scorer in load_index(out, split).scorers for s in scorer.shards}
        for old in out.glob(f"scorer-*/{split}-[0-9]*.tar"):
            if f"{old.parent.name}/{old.name}" not in kept:
                old.unlink()
