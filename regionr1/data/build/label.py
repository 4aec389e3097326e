"""From stored queries and pools to the encoded images of shards: read, label, count."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regionr1.data.build.embed import DECODE_THREADS
from regionr1.data.build.pools import Pools
from regionr1.data.build.pools_imported import NO_RESULT
from regionr1.data.build.query_store import QueryStore
from regionr1.data.build.store import EmbeddingStore
from regionr1.data.chunks import chunks
from regionr1.data.images import (
    MAX_RATIO,
    extreme,
    open_image,
    read_image_bytes,
    stored_image,
)
from regionr1.data.records import SkipReport
from regionr1.data.shards.samples import ShardSample, pack_image
from regionr1.progress import progress

CHUNK = 64
EXTREME = f"aspect ratio of the query image beyond {MAX_RATIO}:1, which policies refuse"


@dataclass(slots=True)
class SplitWork:
    """One split on its way to shards; the counts are complete when its images are.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        queries: Its query images, and the questions about them.
        pools: Candidates of each query.
        skipped: Pairs left out, by reason.
        misses: Pools without a positive, by reason.
        n_samples: Samples encoded.
        n_with_positive: Pools with a positive.
        full_first: Pools whose first candidate is a positive.
        groups: For every question type, source and subset: pools, and those with a positive.
    """

    name: str
    queries: QueryStore
    pools: Pools
    skipped: SkipReport = field(default_factory=SkipReport)
    misses: SkipReport = field(default_factory=SkipReport)
    n_samples: int = 0
    n_with_positive: int = 0
    full_first: int = 0
    groups: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @property
    def n_read(self) -> int:
        """Pairs in the published files."""
        return self.queries.n_questions + self.queries.left_out.total


def labelled_images(
    split: SplitWork, kb: EmbeddingStore, root: Path, dtype: str
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the images of a split, encoded, with the numbers of their questions; keep its counts.

    ``train`` keeps only queries whose pool holds a positive; the other splits keep all.

    Args:
        split: The split; its counts are updated.
        kb: The knowledge base.
        root: Folder of the published files.
        dtype: Of the embeddings in the shards.

    Raises:
        UserError: A query image that cannot be read any more.
    """
    split.skipped.include(split.queries.left_out)
    order: Sequence[int] = range(len(split.queries))
    if split.name == "train":
        # Images of one entity lie together; spread them so that a small shuffle buffer suffices.
        order = list(order)
        random.Random(0).shuffle(order)
    with (
        ThreadPoolExecutor(DECODE_THREADS) as threads,
        progress(total=len(order), desc=f"write {split.name}", unit="img") as bar,
    ):
        for rows in chunks(order, CHUNK):
            paths = [root / split.queries.row(row)[0] for row in rows]
            full = split.queries.vectors(rows)
            for row, view, (data, image) in zip(rows, full, threads.map(_open, paths), strict=True):
                samples = list(_samples(split, kb, row, image, view))
                if extreme(*image.size):
                    width, height = image.size
                    split.skipped.add(EXTREME, f"{samples[0].key} ({width}x{height})", len(samples))
                    continue
                if kept := [sample for sample in samples if _count(split, sample, kb)]:
                    yield pack_image(kept, *stored_image(data, image), dtype), len(kept)
            bar.update(len(rows))


def _count(split: SplitWork, sample: ShardSample, kb: EmbeddingStore) -> bool:
    """Count a sample, and say whether it is kept."""
    if not sample.candidate_ids:
        split.skipped.add(NO_RESULT, sample.key)
        return False
    positive = any(sample.labels)
    for name, value in sample.groups.items():
        tally = split.groups.setdefault(name, {}).setdefault(value, [0, 0])
        tally[0] += 1
        tally[1] += positive
    if positive:
        split.n_with_positive += 1
        split.full_first += sample.labels[0]
    else:
        known = any(kb.knows(gold) for gold in sample.gold_ids)
        reason = "no positive in the pool" if known else "gold page is not in the knowledge base"
        split.misses.add(reason, sample.key)
        if split.name == "train":
            split.skipped.add(reason, sample.key)
            return False
    split.n_samples += 1
    return True


def _samples(
    split: SplitWork, kb: EmbeddingStore, row: int, image: Image.Image, full: np.ndarray
) -> Iterator[ShardSample]:
    """The questions about an image with their pools, which most often are one and the same."""
    known: dict[bytes, tuple[list[tuple[str, str]], np.ndarray]] = {}
    exact = split.pools.about.get("index") == "Flat"
    first = split.queries.starts[row]
    for number, query in enumerate(split.queries.questions(row), first):
        rows = split.pools.rows[number]
        pool = rows.tobytes()
        if pool not in known:
            known[pool] = _pool(kb, rows[rows >= 0], full, exact)
        owned, candidates = known[pool]
        yield ShardSample(
            key=query.key,
            image=image,
            question=query.question,
            gold_ids=list(query.gold_ids),
            cluster=query.cluster,
            question_type=query.question_type,
            source=query.source,
            candidate_ids=[owner for owner, _ in owned],
            candidate_images=[name for _, name in owned],
            labels=[owner in query.gold_ids for owner, _ in owned],
            candidates=candidates,
            full=full,
            reference_box_px=query.reference_box_px,
            subset=query.subset,
            data_id=query.data_id,
            image_name=query.image_path.as_posix(),
        )


def _pool(
    kb: EmbeddingStore, rows: np.ndarray, full: np.ndarray, exact: bool
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Entity and image of every candidate, best first by the full image, and their embeddings."""
    candidates = kb.vectors(rows)
    if len(rows) and not exact:
        # What an approximate or another system's search put first, the full image need not.
        best = np.argsort(-(candidates @ full), kind="stable")
        rows, candidates = rows[best], candidates[best]
    return [kb.row(row) for row in rows], candidates


def _open(path: Path) -> tuple[bytes, Image.Image]:
    data = read_image_bytes(path, "query")
    return data, open_image(data, f"query ({path})")
