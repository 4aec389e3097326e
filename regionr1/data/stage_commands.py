"""The stages of `regionr1 data prepare` as commands: every public function here is one.

Each stage leaves its result in a work folder, refuses what another scorer or split left there, and
does nothing twice. Imports are local, so that asking for help does not load torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from regionr1.data.source import SPLITS, SourceName
from regionr1.errors import UserError, at_least_one


def embed(
    root: Path,
    work: Path,
    source: SourceName = "evqa",
    kb: str | None = None,
    scorer: str = "builtin",
    splits: tuple[str, ...] = SPLITS,
    include_two_hop: bool = False,
    skip_missing: bool = False,
    batch_size: int = 64,
    part_size: int = 4096,
    dtype: Literal["float32", "float16"] = "float32",
    devices: int = 1,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
) -> None:
    """Embed the knowledge base and the queries; run again after a kill, it goes on.

    Args:
        root: Folder of the published files.
        work: Folder for the embeddings, which later stages read.
        source: Layout of the files: E-VQA, InfoSeek or your own JSON Lines.
        kb: Name of the knowledge-base file in ``root``; by default the layout's usual one.
        scorer: The frozen dual encoder: ``builtin``, or a YAML file as in ``conf/scorer/``.
        splits: Whose queries to embed; none embeds the knowledge base only.
        include_two_hop: Keep two-hop questions, with both pages as gold.
        skip_missing: Leave out and count queries whose image is missing or unreadable.
        batch_size: Images per scorer call.
        part_size: Images of a part; a killed run loses at most one part per process.
        dtype: Of the embeddings on disk; float16 halves them.
        devices: Processes, one per GPU or several on the CPU.
        accelerator: Where the scorer runs; ``auto`` takes GPUs if there are any.
    """
    from regionr1.data.embed_run import EmbedJob, run_embedding

    job = EmbedJob(
        root, work, source, kb, scorer, splits, include_two_hop, skip_missing, batch_size,
        part_size, dtype,
    )  # fmt: skip
    run_embedding(job, devices, accelerator)
    print(f"embedded into {work}; next: regionr1 data index --work {work}")


def index(work: Path, kind: str = "auto") -> None:
    """Build the FAISS index over the embedded knowledge base.

    Args:
        work: The work folder that ``embed`` filled.
        kind: ``Flat`` (exact), any FAISS factory string, or ``auto``: exact up to half a million
            images, beyond that an inverted file of 8-bit vectors, trained on a sample.
    """
    from regionr1.data.embed import kb_folder
    from regionr1.data.prepare import EMBED_MEND
    from regionr1.data.search import build_index
    from regionr1.data.store import EmbeddingStore

    store = EmbeddingStore(kb_folder(work), EMBED_MEND)
    kind = build_index(store, work, kind)
    print(f"index {kind} over {len(store):,} images; next: regionr1 data pool --work {work}")


def pool(
    work: Path,
    k: int = 20,
    splits: tuple[str, ...] = SPLITS,
    results: Path | None = None,
    faiss: Path | None = None,
) -> None:
    """Retrieve the candidates of every query, or import those of another system.

    Args:
        work: The work folder that ``embed`` and ``index`` filled.
        k: Candidates per query: images when searched, pages when imported.
        splits: Whose queries.
        results: Result file of EchoSight or OMGM, for one split.
        faiss: EchoSight's index folder (kb_index.faiss, kb_index_ids.pkl) or OMGM's index file.
    """
    from regionr1.data.prepare import PoolOptions, make_pools
    from regionr1.data.search import open_index_kind, open_pools

    options = PoolOptions(k, open_index_kind(work), results, faiss)
    if results is not None and len(splits) > 1:
        raise UserError(f"{results}: holds the results of one split; name it with --splits.")
    make_pools(work, splits, options)
    for split in splits:
        pools = open_pools(work, split)
        print(f"{split}: {len(pools.rows):,} pools of up to {pools.k}")
        for reason, n in pools.about["skipped"].items():
            print(f"{split}: {n:,} x {reason}")


def add_scorer(
    shards: str | Path,
    root: Path,
    scorer: str,
    kb: str | None = None,
    splits: tuple[str, ...] | None = None,
    batch_size: int = 64,
    part_size: int = 4096,
    devices: int = 1,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
) -> None:
    """Add another scorer's embeddings to shards; run again after a kill, it goes on.

    Queries, candidates, their order and their labels stay as the shards' own scorer found them:
    only scores change. ``fit``, ``test`` and ``premise`` with that scorer then read these.

    Args:
        shards: The shard folder.
        root: Folder of the published files that the shards were built from.
        scorer: The scorer to add: a YAML file as in ``conf/scorer/``, weights, or its name.
        kb: Name of the knowledge-base file in ``root``; by default the layout's usual one.
        splits: To which splits; by default those in the folder.
        batch_size: Images per scorer call.
        part_size: Candidates of a part; a killed run loses at most one part per process.
        devices: Processes that embed the candidates, one per GPU or several on the CPU.
        accelerator: Where the scorer runs; ``auto`` takes GPUs if there are any.
    """
    from regionr1.data.add_scorer import AddOptions
    from regionr1.data.add_scorer import add_scorer as add
    from regionr1.data.location import Remote, as_location
    from regionr1.data.premise import premise
    from regionr1.data.shards import indexed_splits

    folder = as_location(shards)
    if isinstance(folder, Remote):
        raise UserError(f"{folder}: embeddings are added to shards in a folder; copy them first.")
    options = AddOptions(batch_size, part_size, devices, accelerator)
    known = indexed_splits(folder)
    print(premise(add(folder, root, scorer, splits or known, kb, options)))


def describe(out: Path) -> None:
    """Say what shards hold, from their index alone.

    Args:
        out: The shard folder.
    """
    from regionr1.data.premise import premise
    from regionr1.data.shards import indexed_splits, load_index

    print(premise([load_index(out, split) for split in indexed_splits(out)]))


def prepare(
    root: Path,
    out: Path,
    work: Path,
    source: SourceName = "evqa",
    kb: str | None = None,
    scorer: str = "builtin",
    splits: tuple[str, ...] = SPLITS,
    k: int = 20,
    results: Path | None = None,
    faiss: Path | None = None,
    index_kind: str = "auto",
    include_two_hop: bool = False,
    skip_missing: bool = False,
    overwrite: bool = False,
    samples_per_shard: int = 256,
    batch_size: int = 64,
    part_size: int = 4096,
    dtype: Literal["float32", "float16"] = "float32",
    devices: int = 1,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
) -> None:
    """Embed, index, pool, write shards and verify them; run again after a kill, it goes on.

    Args:
        root: Folder of the published files.
        out: Folder of the shards.
        work: Folder for embeddings, index and pools; only needed again to change what follows.
        source: Layout of the files: E-VQA, InfoSeek or your own JSON Lines.
        kb: Name of the knowledge-base file in ``root``; by default the layout's usual one.
        scorer: The frozen dual encoder: ``builtin``, or a YAML file as in ``conf/scorer/``.
        splits: Which splits to build.
        k: Candidates per query: images when searched, pages when imported.
        results: Result file of EchoSight or OMGM, for one split.
        faiss: EchoSight's index folder (kb_index.faiss, kb_index_ids.pkl) or OMGM's index file.
        index_kind: Kind of our own index; see ``regionr1 data index --help``.
        include_two_hop: Keep two-hop questions, with both pages as gold.
        skip_missing: Leave out and count queries whose image is missing or unreadable.
        overwrite: Replace shards that were built from something else.
        samples_per_shard: Samples of every tar but the last.
        batch_size: Images per scorer call.
        part_size: Images of a part; a killed run loses at most one part per process.
        dtype: Of the embeddings on disk; float16 halves them.
        devices: Processes, one per GPU or several on the CPU.
        accelerator: Where the scorer runs; ``auto`` takes GPUs if there are any.
    """
    from regionr1.data.commands import verify
    from regionr1.data.embed_run import EmbedJob, run_embedding
    from regionr1.data.prepare import PoolOptions, make_pools, shards_from_work

    options = PoolOptions(k, index_kind, results, faiss)
    if results is not None and len(splits) > 1:
        raise UserError(f"{results}: holds the results of one split; name it with --splits.")
    job = EmbedJob(
        root, work, source, kb, scorer, splits, include_two_hop, skip_missing, batch_size,
        part_size, dtype,
    )  # fmt: skip
    at_least_one(samples_per_shard=samples_per_shard)
    run_embedding(job, devices, accelerator)
    make_pools(work, splits, options)
    shards_from_work(root, work, out, splits, overwrite, samples_per_shard)
    verify(out)
