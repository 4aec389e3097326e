"""The commands of `regionr1 data`: every public function here is one.

Imports are local, so that asking for help does not load torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from regionr1.data.source import SPLITS, SourceName
from regionr1.errors import UserError


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

    from regionr1.data.inspect import inspect_source
    from regionr1.data.source import open_source

    report = inspect_source(open_source(source, root, kb, source == "evqa"), read_kb)
    print(report.text())
    if out is not None:
        _write_whole(out, json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n")


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
        from regionr1.data.premise import premise as describe
        from regionr1.data.prepare import shards_from_work

        print(describe(shards_from_work(root, work, out, splits, overwrite, samples_per_shard)))
        return
    from regionr1.data.embed_run import device_of
    from regionr1.data.premise import premise as describe
    from regionr1.data.prepare import prepare_shards
    from regionr1.data.source import open_source
    from regionr1.modules.scorer import load_scorer

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
    from regionr1.data.location import as_location
    from regionr1.data.premise import premise as describe
    from regionr1.data.shards import check_shards, indexed_splits, verify_index

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
    from regionr1.data.headroom import chance, headroom, reembed
    from regionr1.data.premise import premise as describe
    from regionr1.data.shards import verify_index
    from regionr1.data.stream import read_samples
    from regionr1.modules.scorer import load_scorer
    from regionr1.report.render import format_table, table_json
    from regionr1.report.table import metrics_table

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
        _write_whole(out, table_json(rows))


def _write_whole(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it when it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}).") from error
