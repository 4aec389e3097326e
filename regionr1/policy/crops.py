"""From answers to the rectangles that are cut from the original images."""

from regionr1.algorithm.answers import Decision
from regionr1.algorithm.boxes import CropPrior, crop_px
from regionr1.data.shards.batch import QueryBatch
from regionr1.policy.rollout import Rollouts
from regionr1.scorers.reranker import BoxPx


def crop_rectangles(
    batch: QueryBatch, rollouts: Rollouts, prior: CropPrior
) -> list[list[BoxPx | None]]:
    """B lists of G rectangles (xyxy, original pixels), padded by the prior; None for no REGION."""
    padded = prior.pad(rollouts.boxes_unit)
    return [
        [
            crop_px(padded[b, g], batch.widths[b], batch.heights[b])
            if decision == Decision.REGION
            else None
            for g, decision in enumerate(row)
        ]
        for b, row in enumerate(rollouts.decision.tolist())
    ]
