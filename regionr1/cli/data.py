"""Commands of `regionr1 data` that read: every public function here is one.

Those that build are the stages in `regionr1.data.build.stages`. Imports are local, so that asking
for help does not load torch.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from regionr1.data.readers.registry import SourceName
from regionr1.errors import UserError, at_least_one
from regionr1.files import write_text

if TYPE_CHECKING:
    from regionr1.data.shards.samples import ShardSample


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
        source: Layout of the files, by the name of its reader.
        kb: Name of the knowledge-base file in ``root``; by default the layout's usual one.
        read_kb: Also read the knowledge base, which takes minutes when it is the whole one.
        out: JSON file for the counts, beside printing them.
    """
    import json

    from regionr1.data.readers.inspect import inspect_source
    from regionr1.data.readers.registry import open_source

    report = inspect_source(open_source(source, root, kb), read_kb)
    print(report.text())
    if out is not None:
        write_text(out, json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n")


def describe(out: Path) -> None:
    """Say what shards hold, from their index alone.

    Args:
        out: The shard folder.
    """
    from regionr1.data.shards.describe import describe as described
    from regionr1.data.shards.index import indexed_splits, load_index

    print(described([load_index(out, split) for split in indexed_splits(out)]))


def verify(out: str | Path, splits: tuple[str, ...] | None = None) -> None:
    """Check every byte of every shard against its index, and what every sample says.

    Images are decoded, embeddings of added scorers are checked too.

    Args:
        out: The shard folder, or where it lies: a URL, or ``pipe:COMMAND`` with {name}.
        splits: Which splits; by default those in the folder, and for a URL all three.
    """
    from regionr1.data.shards.describe import describe as described
    from regionr1.data.shards.describe import verify as verified
    from regionr1.data.shards.location import as_location

    print(described(verified(as_location(out), splits)))


def premise(
    shards: Path,
    root: Path | None = None,
    split: Literal["train", "val", "test"] = "test",
    scorer: str = "builtin",
    out: Path | None = None,
    crops: bool = False,
    limit: int | None = None,
    work: Path | None = None,
) -> None:
    """Measure what there is to win by cropping: the full image against the reference box.

    With ``crops``, no reference box is needed: each query is ranked by 42 crops of a fixed grid.
    ``best_of_grid`` is the best of them by the query's own labels, ``luck_of_grid`` the best of the
    same crops of another query's image, which is what luck alone gives, ``fixed_crop`` the best
    single crop for all queries.

    Args:
        shards: Folder that ``regionr1 data shards`` wrote.
        root: Folder of the published files. With it, raw pixels re-rank the same pools as a
            baseline, which needs the candidates' images.
        split: Which split to measure.
        scorer: The scorer that the shards were made with, or one that was added to them.
        out: JSON file for the table, beside printing it.
        crops: Rank by the crops of the grid too; the scorer embeds 42 crops per image.
        limit: Measure this many queries, spread evenly over the split; left out, all.
        work: Folder that keeps the crops' embeddings: a killed run goes on, and another limit takes
            over what is there. Left out, nothing is kept.
    """
    from regionr1.data.shards.describe import describe as described
    from regionr1.data.shards.index import verify_index
    from regionr1.data.shards.stream import read_samples
    from regionr1.evaluation.crop_grid import crop_grid_headroom, crop_grid_outcomes, evenly, grid
    from regionr1.evaluation.headroom import chance, headroom, reembed
    from regionr1.evaluation.render import format_table, table_json
    from regionr1.evaluation.table import metrics_table
    from regionr1.progress import progress
    from regionr1.scorers.load import load_scorer

    if root is not None and not root.is_dir():
        raise UserError(f"{root}: no such folder; name the one that the shards were built from.")
    if limit is not None:
        at_least_one(limit=limit)
    model = load_scorer(scorer)
    index = verify_index(shards, split, model.fingerprint())
    if not index.n_samples:
        raise UserError(f"{shards}: its {split} split holds no query, so nothing can be measured")
    n = index.n_samples if limit is None else min(limit, index.n_samples)

    def queries() -> "Iterator[ShardSample]":
        return evenly(read_samples(shards, index), index.n_samples, limit)

    outcomes = headroom(progress(queries(), "premise", n, "query"), model)
    if crops:
        images = min(n, index.n_images)
        crops_in_all = images * len(grid())
        print(f"embedding at most {images:,} images x {len(grid())} crops = {crops_in_all:,} crops")
        kept = None
        if work is not None:
            kept = work / f"premise-{split}-{index.built_from}-{model.fingerprint()}"
        ranked = crop_grid_outcomes(queries(), model, kept)
        outcomes += crop_grid_headroom(progress(ranked, "crops", n, "query"))
    if root is not None:
        pixels = load_scorer("pixels")
        samples = progress(reembed(queries(), pixels, root), "raw pixels", n, "query")
        outcomes += headroom(samples, pixels, ", raw pixels")
    rows = metrics_table(outcomes)
    print(described([index]))
    print(f"CondR@1 of the pool in random order: {chance(queries()):.3f}")
    print(format_table(rows, ("cond_recall_at_1", "recall_at_1", "mrr")))
    if not any(outcome.method.startswith("reference") for outcome in outcomes):
        print("no query has a reference box" + ("" if crops else "; --crops needs none"))
    if out is not None:
        write_text(out, table_json(rows))
