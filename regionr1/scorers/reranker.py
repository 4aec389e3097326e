"""RewardReranker: the frozen re-ranker whose ranking the policy is rewarded for improving."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor

from regionr1.errors import UserError
from regionr1.scorers.load import load_scorer

BoxPx = tuple[int, int, int, int]


class EncodedCrops(NamedTuple):
    """Embedded crops.

    Attributes:
        embeddings: (B, G, D) unit vectors; zeros where there was no crop.
        n_crops: Crops asked for.
        n_encoded: Crops that the scorer encoded: the distinct ones it did not remember.
    """

    embeddings: Tensor
    n_crops: int
    n_encoded: int


class RewardReranker(LightningModule):
    """A frozen dual encoder over stored candidates: only crops are ever encoded here.

    Candidate and full-image embeddings come with the batch, made once by `regionr1 data shards`, or
    by `regionr1 data add-scorer` where the shards were made with another scorer.

    Args:
        scorer: `builtin`, a YAML file such as those in `conf/scorer/` or what it holds, or the path
            of weights that `scripts/train_scorer` wrote.
        remember: Embeddings of crops kept in memory, the longest unused forgotten first. The same
            crop of the same query comes back as a policy settles. 0 remembers none.
    """

    def __init__(self, scorer: str | dict[str, Any] = "builtin", remember: int = 65536) -> None:
        super().__init__()
        if remember < 0:
            raise UserError(f"remember must be at least 0 crops, not {remember}")
        self.name = scorer if isinstance(scorer, str) else scorer.get("class_path")
        self.scorer = load_scorer(scorer)
        self.remember = remember
        self.memory: OrderedDict[tuple[str, BoxPx], Tensor] = OrderedDict()
        self.eval().requires_grad_(False)  # also a scorer of one's own that does not say so

    def train(self, mode: bool = True) -> "RewardReranker":
        """Keeps the re-ranker in eval mode whatever is asked, because it is frozen."""
        return super().train(False)

    def fingerprint(self) -> str:
        """The scorer's fingerprint, whose embeddings the shards must hold."""
        return self.scorer.fingerprint()

    @torch.no_grad()
    def views(
        self,
        images: Sequence[Image.Image],
        crops_px: Sequence[Sequence[BoxPx | None]],
        keys: Sequence[str] | None = None,
    ) -> EncodedCrops:
        """Cuts and embeds crops, equal crops of one image once, all in one batch.

        Args:
            images: B images.
            crops_px: B lists of G rectangles (xyxy, original pixels), None for no crop.
            keys: B names, each of one image for ever: crops are then remembered from call to call.
        """
        wanted = [
            (b, g, box)
            for b, row in enumerate(crops_px)
            for g, box in enumerate(row)
            if box is not None
        ]
        distinct = list(dict.fromkeys((b, box) for b, _, box in wanted))
        known: dict[tuple[int, BoxPx], Tensor] = {}
        if keys is not None:
            known = {
                (b, box): e for b, box in distinct if (e := self._recall(keys[b], box)) is not None
            }
        missing = [crop for crop in distinct if crop not in known]
        if missing:
            crops = [images[b].crop(box) for b, box in missing]
            with torch.autocast(self.device.type, enabled=False):  # as the stored embeddings were
                encoded = self.scorer.embed_images(crops).to(self.device)
            known |= dict(zip(missing, encoded, strict=True))
            if keys is not None:
                self._keep({(keys[b], box): known[b, box] for b, box in missing})
        group = max((len(row) for row in crops_px), default=0)
        result = torch.zeros(len(images), group, self.scorer.dim, device=self.device)
        for b, g, box in wanted:
            result[b, g] = known[b, box]
        return EncodedCrops(result, len(wanted), len(missing))

    def _recall(self, key: str, box: BoxPx) -> Tensor | None:
        found = self.memory.get((key, box))
        if found is None:
            return None
        self.memory.move_to_end((key, box))
        return found.to(self.device)

    def _keep(self, found: dict[tuple[str, BoxPx], Tensor]) -> None:
        # clones: a row would keep the whole batch alive; on the CPU: crops outgrow a GPU's memory
        self.memory.update({crop: row.cpu().clone() for crop, row in found.items()})
        while len(self.memory) > self.remember:
            self.memory.popitem(last=False)

    @staticmethod
    def scores(views: Tensor, candidates: Tensor) -> Tensor:
        """Cosines (B, G, K) of unit views (B, G, D) and unit candidates (B, K, D)."""
        with torch.autocast(views.device.type, enabled=False):  # margins are finer than bfloat16
            return views @ candidates.transpose(-1, -2)
