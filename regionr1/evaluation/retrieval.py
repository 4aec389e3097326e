"""What cropping does to retrieval itself (paper, table 8): the pool rebuilt by the policy's view.

Everywhere else the pool is what the full image retrieved, and a view only orders it. Here each
view searches the whole knowledge base anew, so a crop can lose what the full image had found, and
find what it had not.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from regionr1.algorithm.boxes import crop_px
from regionr1.data.build.store import EmbeddingStore
from regionr1.data.shards.samples import ShardSample
from regionr1.evaluation.headroom import chunks, outcome_of
from regionr1.evaluation.table import Outcome
from regionr1.scorers.base import Scorer

FULL_ROW, POLICY_ROW = "full, searched", "policy, searched"


def searched(
    samples: Iterable[ShardSample],
    policy: Mapping[str, Outcome],
    scorer: Scorer,
    kb: EmbeddingStore,
    index: Any,
    k: int,
) -> Iterator[Outcome]:
    """Yields the rows of FULL_ROW and POLICY_ROW, query by query.

    Args:
        samples: Queries.
        policy: What the policy did with each, by key; others are passed over.
        scorer: The scorer of the samples and of the knowledge base, which embeds the crops.
        kb: The knowledge base.
        index: FAISS index over it.
        k: Candidates that a search returns.
    """
    for chunk in chunks(sample for sample in samples if sample.key in policy):
        boxes = [policy[sample.key].box_unit for sample in chunk]
        cut = [
            (i, sample.image.crop(crop_px(box, *sample.image.size)))
            for i, (sample, box) in enumerate(zip(chunk, boxes, strict=True))
            if box is not None
        ]
        views = np.stack([sample.full for sample in chunk])
        full = index.search(np.ascontiguousarray(views), k)[1]
        if cut:
            embedded = scorer.embed_images([image for _, image in cut]).cpu().numpy()
            views[[i for i, _ in cut]] = embedded
        chosen = index.search(np.ascontiguousarray(views), k)[1]
        for i, sample in enumerate(chunk):
            yield _outcome(sample, FULL_ROW, sample.full, full[i], kb)
            found = _outcome(sample, POLICY_ROW, views[i], chosen[i], kb)
            decided = policy[sample.key]
            if decided.ranking is None:  # no view, so no search: a miss, never the full image
                found = replace(found, ranking=None, rank=float("inf"), ndcg=0.0)
            yield replace(found, decision=decided.decision, p_full=decided.p_full)


def _outcome(
    sample: ShardSample, method: str, view: np.ndarray, rows: np.ndarray, kb: EmbeddingStore
) -> Outcome:
    """The ranking of what a search found."""
    found = [int(row) for row in rows if row >= 0]
    owners = [kb.row(row)[0] for row in found]
    pool = replace(
        sample,
        candidate_ids=owners,
        labels=[owner in sample.gold_ids for owner in owners],
        candidates=kb.vectors(found),
    )
    return outcome_of(pool, method, view, None)
