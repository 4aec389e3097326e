"""What a step is timed on: queries with images of noise, and pools of K candidates."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from regionr1.algorithm.boxes import CropPrior
from regionr1.algorithm.rewards import RewardWeights
from regionr1.data.shards.batch import QueryBatch

SIDE_PX = 28  # of an image token: two patches of 14 pixels


@dataclass
class Work:
    """Queries and what a dense trainer would encode again.

    Attributes:
        batch: B queries with K candidates each.
        candidate_images: B lists of K pictures.
        completion: Tokens of a completion, for ways that sample without a grammar.
        prior: What is known about crops.
        weights: What each part of the reward counts.
    """

    batch: QueryBatch
    candidate_images: list[list[Image.Image]]
    completion: int
    prior: CropPrior = CropPrior()
    weights: RewardWeights = RewardWeights()


def make_work(
    queries: int, image_px: int, text_tokens: int, candidates: int, dim: int, completion: int
) -> Work:
    """Invents queries.

    Args:
        queries: B.
        image_px: Side of the square query images.
        text_tokens: Tokens of a question, one a letter.
        candidates: K.
        dim: Of the stored embeddings.
        completion: Tokens of a completion.
    """
    rng = np.random.default_rng(0)
    torch.manual_seed(0)

    def picture(side: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))

    pools = [[picture(64) for _ in range(candidates)] for _ in range(queries)]
    labels = torch.zeros(queries, candidates, dtype=torch.bool)
    labels[:, candidates // 2] = True
    batch = QueryBatch(
        keys=[f"query-{b}" for b in range(queries)],
        images=[picture(image_px) for _ in range(queries)],
        questions=["".join(rng.choice(list("abcdefgh "), text_tokens)) for _ in range(queries)],
        candidate_ids=[[f"c{k}" for k in range(candidates)]] * queries,
        gold_ids=[[f"c{candidates // 2}"]] * queries,
        clusters=[f"query-{b}" for b in range(queries)],
        groups=[{}] * queries,
        candidates=normalize(torch.randn(queries, candidates, dim), dim=-1),
        full_embedding=normalize(torch.randn(queries, dim), dim=-1),
        labels=labels,
        valid=torch.ones_like(labels),
        reference_box_unit=torch.full((queries, 4), float("nan")),
        widths=[image_px] * queries,
        heights=[image_px] * queries,
        data_ids=[""] * queries,
        image_names=[""] * queries,
    )
    return Work(batch, pools, completion)
