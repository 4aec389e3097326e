"""RewardReranker: the frozen re-ranker whose ranking the policy is rewarded for improving."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor

from regionr1.modules.scorer import load_scorer

BoxPx = tuple[int, int, int, int]


class Views(NamedTuple):
    """Embedded crops.

    Attributes:
        embeddings: (B, G, D) unit vectors; zeros where there was no crop.
        n_crops: Crops asked for.
        n_encoded: Distinct crops, which is what the scorer encoded.
    """

    embeddings: Tensor
    n_crops: int
    n_encoded: int


class RewardReranker(LightningModule):
    """A frozen dual encoder over stored candidates: only crops are ever encoded here.

    Candidate and full-image embeddings come with the batch, made once by `regionr1 data shards`.

    Args:
        scorer: `builtin`, a YAML file such as those in `conf/scorer/`, or the path of weights
            that `scripts/train_scorer` wrote.
    """

    def __init__(self, scorer: str = "builtin") -> None:
        super().__init__()
        self.scorer = load_scorer(scorer)

    def train(self, mode: bool = True) -> "RewardReranker":
        """Stays in eval mode: it is frozen."""
        return super().train(False)

    def fingerprint(self) -> str:
        """The scorer's fingerprint, which the shards must carry too."""
        return self.scorer.fingerprint()

    def views(
        self, images: Sequence[Image.Image], crops_px: Sequence[Sequence[BoxPx | None]]
    ) -> Views:
        """Cuts and embeds crops, equal crops of one image once, all in one batch.

        Args:
            images: B images.
            crops_px: B lists of G rectangles (xyxy, original pixels), None for no crop.
        """
        distinct: dict[tuple[int, BoxPx], int] = {}
        slots = [
            (b, g, distinct.setdefault((b, box), len(distinct)))
            for b, row in enumerate(crops_px)
            for g, box in enumerate(row)
            if box is not None
        ]
        group = max((len(row) for row in crops_px), default=0)
        result = torch.zeros(len(images), group, self.scorer.dim, device=self.device)
        if distinct:
            crops = [images[b].crop(box) for b, box in distinct]
            with torch.autocast(self.device.type, enabled=False):  # as the stored embeddings were
                encoded = self.scorer.embed_images(crops)
            b, g, index = torch.tensor(slots).T
            result[b, g] = encoded[index].to(result)
        return Views(result, len(slots), len(distinct))

    @staticmethod
    def scores(views: Tensor, candidates: Tensor) -> Tensor:
        """Cosines (B, G, K) of unit views (B, G, D) and unit candidates (B, K, D)."""
        with torch.autocast(views.device.type, enabled=False):  # margins are finer than bfloat16
            return views @ candidates.transpose(-1, -2)
