"""From queries to encoded shard samples: decode, embed, retrieve, label, count."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from regionr1.data.images import encoded_for_shard, open_image, read_image_bytes
from regionr1.data.pool import (
    DECODE_THREADS,
    KnowledgeIndex,
    PoolBuilder,
    as_finite_array,
    progress_batches,
)
from regionr1.data.records import Query, SkipReport
from regionr1.data.samples import ShardSample, encode_sample
from regionr1.errors import UserError

if TYPE_CHECKING:
    from regionr1.modules.scorer import Scorer


@dataclass(slots=True)
class SplitWork:
    """One split on its way to shards; the counts are complete when its samples are.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        queries: What the reader gave.
        skipped: Pairs left out, by reason.
        built_from: Hash over everything the shards depend on.
        n_read: Pairs in the published files.
        misses: Pools without a positive, by reason.
        n_samples: Samples encoded.
        n_with_positive: Pools with a positive.
        full_first: Pools whose first candidate is a positive.
    """

    name: str
    queries: list[Query]
    skipped: SkipReport
    built_from: str
    n_read: int
    misses: SkipReport = field(default_factory=SkipReport)
    n_samples: int = 0
    n_with_positive: int = 0
    full_first: int = 0


def encode_queries(
    split: SplitWork, scorer: Scorer, pools: PoolBuilder, skip_missing: bool, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield the encoded samples of a split and keep its counts.

    ``train`` keeps only queries whose pool holds a positive; the other splits keep all.

    Args:
        split: The split; its counts are updated.
        scorer: The frozen dual encoder.
        pools: Search over the knowledge base.
        skip_missing: Count queries with an unreadable image instead of raising.
        batch_size: Images per scorer call.

    Raises:
        UserError: An unreadable query image, or a non-finite embedding.
    """
    queries = list(split.queries)
    training = split.name == "train"
    if training:
        # Rows of one entity lie together; spread them so that a small shuffle buffer suffices.
        random.Random(0).shuffle(queries)
    with ThreadPoolExecutor(DECODE_THREADS) as threads:
        for chunk in progress_batches(queries, batch_size, f"embed {split.name} queries"):
            opened: list[tuple[Query, bytes, Image.Image]] = []
            for query, result in zip(chunk, threads.map(_open_query, chunk), strict=True):
                if not isinstance(result, UserError):
                    opened.append((query, *result))
                elif skip_missing:
                    split.skipped.add("unreadable query image", str(result))
                else:
                    raise result
            if not opened:
                continue
            vectors = scorer.embed_images([image for _, _, image in opened])
            full = as_finite_array(vectors, [query.key for query, _, _ in opened])
            pool = pools.build(full)
            for row, (query, data, image) in enumerate(opened):
                sample = _sample(query, image, pools.index, pool.indices[row].tolist(), full[row])
                reason = _miss_reason(sample, pools.index)
                if reason is not None:
                    split.misses.add(reason, query.key)
                    if training:
                        split.skipped.add(reason, query.key)
                        continue
                else:
                    split.n_with_positive += 1
                    split.full_first += sample.labels[0]
                split.n_samples += 1
                yield encode_sample(sample, *encoded_for_shard(data, image))


def _sample(
    query: Query, image: Image.Image, kb: KnowledgeIndex, rows: list[int], full: np.ndarray
) -> ShardSample:
    ids = [kb.entity_ids[row] for row in rows]
    return ShardSample(
        key=query.key,
        image=image,
        question=query.question,
        gold_ids=list(query.gold_ids),
        cluster=query.cluster,
        question_type=query.question_type,
        source=query.source,
        candidate_ids=ids,
        candidate_images=[kb.image_names[row] for row in rows],
        labels=[entity_id in query.gold_ids for entity_id in ids],
        candidates=kb.embeddings[rows],
        full=full,
        reference_box_px=query.reference_box_px,
    )


def _miss_reason(sample: ShardSample, kb: KnowledgeIndex) -> str | None:
    if any(sample.labels):
        return None
    if not any(gold in kb.known_ids for gold in sample.gold_ids):
        return "gold page is not in the knowledge base"
    return "no positive in the pool"


def _open_query(query: Query) -> tuple[bytes, Image.Image] | UserError:
    try:
        data = read_image_bytes(query.image_path, query.key)
        return data, open_image(data, f"{query.key} ({query.image_path})")
    except UserError as error:
        return error
