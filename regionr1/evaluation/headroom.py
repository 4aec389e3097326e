"""What there is to win by cropping: the same pools, ranked by full image and by reference box.

If the reference box ranks little better than the full image, no crop policy can help, and training
one measures nothing. Raw pixels beside a scorer show how much of the ranking is mere copying.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from regionr1.algorithm.boxes import crop_px, iou, px_to_unit
from regionr1.algorithm.ranking import entity_ranking, first_positive_rank, ndcg, order
from regionr1.data.images import open_image
from regionr1.data.shards.samples import ShardSample
from regionr1.evaluation.table import Outcome
from regionr1.scorers.base import Scorer

BATCH = 64


def headroom(samples: Iterable[ShardSample], scorer: Scorer, note: str = "") -> list[Outcome]:
    """Ranks every pool by its full image and, where there is one, by its reference box.

    Args:
        samples: Queries with their pools.
        scorer: The scorer of the samples' embeddings, which embeds the reference boxes.
        note: Appended to the names of the methods, `full` and `reference`.
    """
    outcomes: list[Outcome] = []
    for chunk in chunks(samples):
        known, crops = [], []
        for sample in chunk:
            outcomes.append(outcome_of(sample, f"full{note}", sample.full, None))
            if sample.reference_box_px is not None:
                box = px_to_unit(sample.reference_box_px, *sample.image.size)
                known.append(sample)
                crops.append(crop_px(box, *sample.image.size))
        if not crops:
            continue
        views = scorer.embed_images(
            [sample.image.crop(crop) for sample, crop in zip(known, crops, strict=True)]
        )
        for sample, crop, view in zip(known, crops, views.cpu().numpy(), strict=True):
            outcomes.append(outcome_of(sample, f"reference{note}", view, crop))
    # The table's rows are in order of first appearance, and the first query may lack a box.
    return sorted(outcomes, key=lambda outcome: outcome.decision)


def reembed(samples: Iterable[ShardSample], scorer: Scorer, root: Path) -> Iterator[ShardSample]:
    """Yields the same queries and pools with the embeddings of another scorer.

    Args:
        samples: Queries with their pools.
        scorer: Embeds the query images anew, and each candidate image once, without its text.
        root: Folder that the names of candidate images are relative to.

    Raises:
        UserError: A candidate's image is missing or unreadable.
    """
    seen: dict[str, np.ndarray] = {}
    for chunk in chunks(samples):
        full = scorer.embed_images([sample.image for sample in chunk]).cpu().numpy()
        names = {name for sample in chunk for name in sample.candidate_images}
        new = sorted(names - seen.keys())
        images = [open_image(root / name, f"candidate {name} of {root}") for name in new]
        vectors = scorer.embed_candidates(images, [""] * len(images)).cpu().numpy()
        seen.update(zip(new, vectors, strict=True))
        for sample, view in zip(chunk, full, strict=True):
            pool = np.stack([seen[name] for name in sample.candidate_images])
            yield replace(sample, full=view, candidates=pool)


def chance(samples: Iterable[ShardSample]) -> float:
    """CondR@1 that a random order of each pool would have; 0 when no pool holds a positive."""
    shares = [float(np.mean(sample.labels)) for sample in samples if any(sample.labels)]
    return float(np.mean(shares)) if shares else 0.0


def chunks(samples: Iterable[ShardSample]) -> Iterator[list[ShardSample]]:
    """Yields lists of BATCH samples, the last one of what is left."""
    iterator = iter(samples)
    while chunk := list(islice(iterator, BATCH)):
        yield chunk


def outcome_of(
    sample: ShardSample, method: str, view: np.ndarray, crop: tuple[int, int, int, int] | None
) -> Outcome:
    """The ranking of a query's pool by one view.

    Args:
        sample: The query.
        method: Name of the method.
        view: (D,) embedding of the view.
        crop: What was cut, xyxy in pixels; None for the full image.
    """
    scores = torch.from_numpy(sample.candidates @ view)
    labels = torch.tensor(sample.labels)
    valid = torch.ones_like(labels)
    box, overlap = None, None
    if crop is not None and sample.reference_box_px is not None:
        unit = px_to_unit(crop, *sample.image.size)
        x1, y1, x2, y2 = unit.tolist()
        box = (x1, y1, x2, y2)
        overlap = float(iou(unit, px_to_unit(sample.reference_box_px, *sample.image.size)))
    return Outcome(
        key=sample.key,
        cluster=sample.cluster,
        method=method,
        ranking=entity_ranking(order(scores, valid), sample.candidate_ids),
        gold_ids=sample.gold_ids,
        pool_has_positive=any(sample.labels),
        rank=float(first_positive_rank(scores, labels, valid)),
        ndcg=float(ndcg(scores, labels, valid)),
        decision="FULL" if crop is None else "REGION",
        box_unit=box,
        iou=overlap,
        groups=sample.groups,
        data_id=sample.data_id or None,
    )
