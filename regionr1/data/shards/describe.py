"""What shards hold, printed where they are built and verified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regionr1.data.readers.base import SPLITS
from regionr1.data.records import first_at
from regionr1.data.shards.index import ShardIndex, check_shards, indexed_splits, verify_index
from regionr1.data.shards.location import Location


def describe(indices: Sequence[ShardIndex]) -> str:
    """Describe what an experiment on these shards rests on, as text for people.

    Args:
        indices: At least one split of one build.

    Returns:
        Per split: pairs read and kept, pool recall (the ceiling of every R@K after re-ranking)
        and the full image's CondR@1; then the scorers that were added, and everything left out or
        counted as a miss, by reason.
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


def verify(location: Location, splits: Sequence[str] | None = None) -> list[ShardIndex]:
    """Check every shard against its index, byte by byte, added embeddings too.

    Args:
        location: Where the shards lie.
        splits: Which splits; None takes those in the folder, and for a URL all three.

    Returns:
        The index of every split.

    Raises:
        UserError: A shard is missing, truncated or altered.
    """
    if splits is None:
        splits = indexed_splits(location) if isinstance(location, Path) else SPLITS
    indices = [verify_index(location, split, checksums=True) for split in splits]
    for index in indices:
        for added in index.scorers:
            check_shards(location, added.shards, checksums=True)
    return indices
