"""What shards hold, printed where they are built and verified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np

from regionr1.data.chunks import chunks
from regionr1.data.readers.base import SPLITS
from regionr1.data.records import first_at
from regionr1.data.seen import Seen
from regionr1.data.shards.index import ShardIndex, check_shards, indexed_splits, verify_index
from regionr1.data.shards.location import Location
from regionr1.data.shards.samples import ShardImage, bytes_by_part
from regionr1.data.shards.stream import read_images
from regionr1.errors import UserError
from regionr1.progress import progress

_THREADS = 4


def describe(indices: Sequence[ShardIndex]) -> str:
    """Describe what an experiment on these shards rests on, as text for people.

    Args:
        indices: At least one split of one build.

    Returns:
        Per split: pairs read and kept, pool recall (the ceiling of every R@K after re-ranking)
        and the full image's CondR@1; then how large the shards are and what takes it, the scorers
        that were added, and everything left out or counted as a miss, by reason.
    """

    def where(index: ShardIndex, reason: str) -> str:
        return first_at(index.examples.get(reason))

    first = indices[0]
    kb = first.knowledge_base
    lines = [
        f"scorer {first.scorer_fingerprint}, D={first.dim}, K={first.k} candidate images; "
        f"knowledge base {kb['entities']:,} entities, {kb['images']:,} images",
        f"{'split':<8}{'read':>9}{'kept':>9}{'pool recall':>13}{'full CondR@1':>14}",
    ]
    for index in indices:
        lines.append(
            f"{index.split:<8}{index.n_read:>9,}{index.n_samples:>9,}"
            f"{index.pool_recall:>13.3f}{index.full_cond_recall_at_1:>14.3f}"
        )
    for index in indices:
        parts = index.bytes_by_part
        sizes = ", ".join(f"{part} {n / 1e6:,.1f}" for part, n in parts.items())
        lines.append(
            f"{index.split}: {index.n_images:,} query images, embeddings in {index.dtype}; "
            f"{sum(parts.values()) / 1e6:,.1f} MB: {sizes}"
        )
    for index in indices:
        for added in () if index.main else index.scorers:
            seen = index.seen_by(added.fingerprint)
            assert seen is not None
            lines.append(
                f"{index.split}: scorer {added.fingerprint} added, D={added.dim}: "
                f"full CondR@1 {seen.full_cond_recall_at_1:.3f}"
            )
    for index in indices:
        for group, values in index.groups.items():
            if len(values) > 1:  # one value is the whole split again
                for value, (n, n_positive) in sorted(values.items()):
                    share = n_positive / n
                    lines.append(f"{index.split}: {group} {value}: {n:,} pools, recall {share:.3f}")
    for index in indices:
        for reason, n in index.skipped.items():
            lines.append(f"{index.split}: {n:,} left out: {reason}{where(index, reason)}")
        for reason, n in index.misses.items():
            if reason not in index.skipped:
                lines.append(
                    f"{index.split}: {n:,} kept and counted as misses: {reason}"
                    f"{where(index, reason)}"
                )
    for reason, n in kb.items():
        if reason not in ("entities", "images"):
            lines.append(f"knowledge base: {n:,} x {reason}{where(first, reason)}")
    return "\n".join(lines)


def verify(
    location: Location, splits: Sequence[str] | None = None, content: bool = True
) -> list[ShardIndex]:
    """Check every shard against its index, byte by byte, and every sample of it.

    Added embeddings are checked too.

    Args:
        location: Where the shards lie.
        splits: Which splits; None takes those in the folder, and for a URL all three.
        content: Also decode every sample, and check it and the counts of the index.

    Returns:
        The index of every split.

    Raises:
        UserError: A shard is missing, truncated or altered, or a sample cannot be used.
    """
    if splits is None:
        splits = indexed_splits(location) if isinstance(location, Path) else SPLITS
    indices = [verify_index(location, split, checksums=True) for split in splits]
    for index in indices:
        for added in index.scorers:
            check_shards(location, added.shards, checksums=True)
        if content:
            for fingerprint in (index.scorer_fingerprint, *(s.fingerprint for s in index.scorers)):
                seen = index.seen_by(fingerprint)
                assert seen is not None
                _check_content(location, seen)
    return indices


def _check_content(location: Location, index: ShardIndex) -> None:
    """Refuse samples that cannot be used, keys that occur twice and counts that are not true."""
    keys, n_samples, n_with_positive, full_first = Seen(), 0, 0, 0
    parts: Counter[str] = Counter()
    with (
        ThreadPoolExecutor(_THREADS) as threads,
        progress(total=index.n_samples, desc=f"verify {index.split}") as bar,
    ):
        for number, shard in enumerate(index.shards):
            for chunk in chunks(read_images(location, index, number), _THREADS * 4):
                for image in chunk:
                    parts.update(bytes_by_part(image.files))
                for sample in chain.from_iterable(threads.map(ShardImage.samples, chunk)):
                    where = f"{location}: {shard.name}, sample {sample.key}"
                    index.refuse_misfit(sample.candidates.shape, where)
                    if keys.add(sample.key):
                        raise UserError(f"{where}: its key occurs twice; build the shards again.")
                    n_samples += 1
                    n_with_positive += any(sample.labels)
                    best = int(np.argmax(sample.candidates @ sample.full))
                    full_first += sample.labels[best if index.embeddings else 0]
                bar.update(sum(map(len, chunk)))
    counts = [
        ("n_samples", index.n_samples, n_samples),
        ("n_with_positive", index.n_with_positive, n_with_positive),
        ("full_first", index.full_first, full_first),
    ]
    if not index.embeddings:  # an added scorer's tars have no sizes by part
        parts["tar"] = sum(shard.bytes for shard in index.shards) - parts.total()
        said = index.bytes_by_part
        counts += [(f"bytes_by_part {p}", said.get(p, 0), parts[p]) for p in {**parts, **said}]
    for name, told, found in counts:
        if told != found:
            raise UserError(
                f"{location}: the index of {index.split} says {name} {told:,} where the shards "
                f"have {found:,}; build the shards again."
            )
