"""The stages of `regionr1 data prepare` as commands: every public function here is one.

Each stage leaves its result in a work folder, refuses what another scorer or split left there, and
does nothing twice. Imports are local, so that asking for help does not load torch.
"""

from pathlib import Path
from typing import Literal

from regionr1.data.readers.base import SPLITS
from regionr1.data.readers.registry import SourceName
from regionr1.errors import UserError, at_least_one
from regionr1.files import write_text


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
    from regionr1.data.build.embed_run import EmbedJob, run_embedding

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
    from regionr1.data.build.embed import kb_folder
    from regionr1.data.build.pools import build_index
    from regionr1.data.build.stages import EMBED_MEND
    from regionr1.data.build.store import EmbeddingStore

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
    from regionr1.data.build.pools import open_index_kind, open_pools
    from regionr1.data.build.stages import PoolOptions, make_pools

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
    from regionr1.data.build.add_scorer import AddOptions
    from regionr1.data.build.add_scorer import add_scorer as add
    from regionr1.data.shards.describe import premise
    from regionr1.data.shards.index import indexed_splits
    from regionr1.data.shards.location import Remote, as_location

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
    from regionr1.data.shards.describe import premise
    from regionr1.data.shards.index import indexed_splits, load_index

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
    from regionr1.data.build.embed_run import EmbedJob, run_embedding
    from regionr1.data.build.stages import PoolOptions, make_pools, shards_from_work

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


def inspect(
    root: Path,
    source: SourceName = "evqa",
    kb: str | None = None,
    read_kb: bool = True,
    out: Path | None = None,
) -> None:
    """Say what a folder of published files holds and what it lacks.

    Args:
        root: Folder of the published files.
        source: Layout of the files: E-VQA, InfoSeek or your own JSON Lines.
        kb: Name of the knowledge-base file in ``root``; by default the layout's usual one.
        read_kb: Also read the knowledge base, which takes minutes when it is the whole one.
        out: JSON file for the counts, beside printing them.
    """
    import json

    from regionr1.data.readers.inspect import inspect_source
    from regionr1.data.readers.registry import open_source

    report = inspect_source(open_source(source, root, kb, source == "evqa"), read_kb)
    print(report.text())
    if out is not None:
        write_text(out, json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n")


def shards(
    root: Path,
    out: Path,
    source: SourceName = "evqa",
    kb: str | None = None,
    scorer: str = "builtin",
    k: int = 20,
    splits: tuple[str, ...] = ("train", "val", "test"),
    include_two_hop: bool = False,
    skip_missing: bool = False,
    overwrite: bool = False,
    samples_per_shard: int = 256,
    batch_size: int = 64,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    work: Path | None = None,
) -> None:
    """Build WebDataset shards from published files, with all that comes before them.

    With ``work``, only the shards are written, from what ``embed``, ``index`` and ``pool`` left.

    Args:
        root: Folder of the published files.
        out: Folder to write the shards to.
        source: Layout of the files: E-VQA, InfoSeek or your own JSON Lines.
        kb: Name of the knowledge-base file in ``root``; by default the layout's usual one.
        scorer: The frozen dual encoder whose embeddings are stored: ``builtin``, or a YAML file
            such as those in ``conf/scorer/``.
        k: Candidates per query.
        splits: Which splits to build.
        include_two_hop: Keep two-hop questions, with both pages as gold.
        skip_missing: Leave out and count queries whose image is missing or unreadable.
        overwrite: Replace shards that were built from something else.
        samples_per_shard: Samples of every tar but the last.
        batch_size: Images per scorer call.
        accelerator: Where the scorer runs; ``auto`` takes a GPU if there is one.
        work: Work folder of the earlier stages; what they decided is not asked again.
    """
    if work is not None:
        from regionr1.data.build.stages import shards_from_work
        from regionr1.data.shards.describe import premise as describe

        print(describe(shards_from_work(root, work, out, splits, overwrite, samples_per_shard)))
        return
    from regionr1.data.build.embed_run import device_of
    from regionr1.data.build.stages import prepare_shards
    from regionr1.data.readers.registry import open_source
    from regionr1.data.shards.describe import premise as describe
    from regionr1.scorers.load import load_scorer

    reader = open_source(source, root, kb, include_two_hop)
    model = load_scorer(scorer).to(device_of(accelerator)).eval()
    indices = prepare_shards(
        reader,
        model,
        out,
        splits=splits,
        k=k,
        skip_missing=skip_missing,
        overwrite=overwrite,
        samples_per_shard=samples_per_shard,
        batch_size=batch_size,
    )
    print(describe(indices))


def verify(out: str | Path, splits: tuple[str, ...] | None = None) -> None:
    """Check every shard against its index, byte by byte, added embeddings too.

    Args:
        out: The shard folder, or where it lies: a URL, or ``pipe:COMMAND`` with {name}.
        splits: Which splits; by default those in the folder, and for a URL all three.
    """
    from regionr1.data.shards.describe import premise as describe
    from regionr1.data.shards.index import check_shards, indexed_splits, verify_index
    from regionr1.data.shards.location import as_location

    location = as_location(out)
    if splits is None:
        splits = tuple(indexed_splits(location)) if isinstance(location, Path) else SPLITS
    indices = [verify_index(location, split, checksums=True) for split in splits]
    for index in indices:
        for added in index.scorers:
            check_shards(location, added.shards, checksums=True)
    print(describe(indices))


def premise(
    shards: Path,
    root: Path | None = None,
    split: Literal["train", "val", "test"] = "test",
    scorer: str = "builtin",
    out: Path | None = None,
) -> None:
    """Measure what there is to win by cropping: the full image against the reference box.

    Args:
        shards: Folder that ``regionr1 data shards`` wrote.
        root: Folder of the published files. With it, raw pixels re-rank the same pools as a
            baseline, which needs the candidates' images.
        split: Which split to measure.
        scorer: The scorer that the shards were made with, or one that was added to them.
        out: JSON file for the table, beside printing it.
    """
    from regionr1.data.shards.describe import premise as describe
    from regionr1.data.shards.index import verify_index
    from regionr1.data.shards.stream import read_samples
    from regionr1.evaluation.headroom import chance, headroom, reembed
    from regionr1.evaluation.render import format_table, table_json
    from regionr1.evaluation.table import metrics_table
    from regionr1.scorers.load import load_scorer

    if root is not None and not root.is_dir():
        raise UserError(f"{root}: no such folder; name the one that the shards were built from.")
    model = load_scorer(scorer)
    index = verify_index(shards, split, model.fingerprint())
    outcomes = headroom(read_samples(shards, index), model)
    if root is not None:
        pixels = load_scorer("pixels")
        samples = reembed(read_samples(shards, index), pixels, root)
        outcomes += headroom(samples, pixels, ", raw pixels")
    rows = metrics_table(outcomes)
    print(describe([index]))
    print(f"CondR@1 of the pool in random order: {chance(read_samples(shards, index)):.3f}")
    print(format_table(rows, ("cond_recall_at_1", "recall_at_1", "mrr")))
    if not any(outcome.method.startswith("reference") for outcome in outcomes):
        print("no query has a reference box, so what cropping could win is not known")
    if out is not None:
        write_text(out, table_json(rows))
