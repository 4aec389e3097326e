"""The batch that training and evaluation steps receive: B queries, never B*G rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from regionr1.data.shards.samples import ShardSample


@dataclass(slots=True)
class QueryBatch:
    """B queries with their candidate pools, padded to K candidates.

    Not frozen: Lightning writes the fields when it moves a batch.

    Attributes:
        keys: B sample keys.
        images: B upright RGB images in original pixels.
        questions: B questions.
        candidate_ids: Per query the entity of each real candidate (padding has none).
        gold_ids: Per query the correct entity ids.
        clusters: Per query the entity cluster for bootstrap intervals.
        groups: Per query the parts of the split it belongs to, such as {"type": "automatic"}.
        candidates: (B, K, D) float32, unit norm; zeros where padded.
        full_embedding: (B, D) float32, unit norm, of the full image.
        labels: (B, K) bool, candidate belongs to a gold entity.
        valid: (B, K) bool, False where padded.
        reference_box_unit: (B, 4) float32 xyxy in 0..1, nan where there is none.
        widths: B image widths in original pixels.
        heights: B image heights in original pixels.
        data_ids: B names in result files of others or in your own file; empty where they have none.
        image_names: B places of the query image, relative to the data folder.
    """

    keys: list[str]
    images: list[Image.Image]
    questions: list[str]
    candidate_ids: list[list[str]]
    gold_ids: list[list[str]]
    clusters: list[str]
    groups: list[dict[str, str]]
    candidates: torch.Tensor
    full_embedding: torch.Tensor
    labels: torch.Tensor
    valid: torch.Tensor
    reference_box_unit: torch.Tensor
    widths: list[int]
    heights: list[int]
    data_ids: list[str]
    image_names: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> QueryBatch:
        """Return the batch with its tensors on ``device``."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            candidates=move(self.candidates),
            full_embedding=move(self.full_embedding),
            labels=move(self.labels),
            valid=move(self.valid),
            reference_box_unit=move(self.reference_box_unit),
        )


def collate(samples: Sequence[ShardSample], k: int) -> QueryBatch:
    """Stack samples into a batch.

    Args:
        samples: B >= 1 samples of the same embedding dimension.
        k: Candidates to pad to, at least the longest pool.
    """
    n_queries, dim = len(samples), samples[0].full.shape[0]
    candidates = torch.zeros(n_queries, k, dim)
    labels = torch.zeros(n_queries, k, dtype=torch.bool)
    valid = torch.zeros(n_queries, k, dtype=torch.bool)
    boxes = torch.full((n_queries, 4), float("nan"))
    for row, sample in enumerate(samples):
        n = len(sample.candidate_ids)
        candidates[row, :n] = torch.from_numpy(sample.candidates)
        labels[row, :n] = torch.tensor(sample.labels, dtype=torch.bool)
        valid[row, :n] = True
        if sample.reference_box_px is not None:
            width, height = sample.image.size
            scale = torch.tensor([width, height, width, height], dtype=torch.float32)
            boxes[row] = torch.tensor(sample.reference_box_px) / scale
    return QueryBatch(
        keys=[sample.key for sample in samples],
        images=[sample.image for sample in samples],
        questions=[sample.question for sample in samples],
        candidate_ids=[sample.candidate_ids for sample in samples],
        gold_ids=[sample.gold_ids for sample in samples],
        clusters=[sample.cluster for sample in samples],
        groups=[sample.groups for sample in samples],
        candidates=candidates,
        full_embedding=torch.stack([torch.from_numpy(sample.full) for sample in samples]),
        labels=labels,
        valid=valid,
        reference_box_unit=boxes,
        widths=[sample.image.width for sample in samples],
        heights=[sample.image.height for sample in samples],
        data_ids=[sample.data_id for sample in samples],
        image_names=[sample.image_name for sample in samples],
    )
