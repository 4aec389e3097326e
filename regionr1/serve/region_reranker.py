"""The trained policy in front of a re-ranker, for use outside the platform.

    from regionr1 import RegionReranker

    reranker = RegionReranker.from_pretrained("folder")
    reranker.crop(image, "Where does this bird live?")
    reranker.rerank(image, "Where does this bird live?", candidates)

Both take one query, or equally long lists of images and questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from regionr1.algorithm.answers import Decision
from regionr1.algorithm.boxes import CropPrior, crop_px
from regionr1.algorithm.ranking import order
from regionr1.data.images import upright_rgb
from regionr1.errors import UserError
from regionr1.policy.adapter_folder import SETTINGS
from regionr1.policy.crop_policy import CropPolicy
from regionr1.scorers.reranker import RewardReranker

Candidate = Image.Image | tuple[Image.Image, str]
Candidates = Sequence[Candidate] | Tensor | np.ndarray
"""Images, images with a text each, or embeddings (K, D) that the scorer made before."""


@dataclass(frozen=True)
class Crop:
    """Where to look.

    Attributes:
        decision: "FULL", "REGION" or "INVALID" (the policy's answer could not be read).
        box_px: The rectangle to cut (xyxy, pixels of the given image); None unless REGION.
        view: The image to rank by; None when INVALID.
        p_full: Exact probability of keeping the whole image, at temperature 1.
    """

    decision: str
    box_px: tuple[int, int, int, int] | None
    view: Image.Image | None
    p_full: float


@dataclass(frozen=True)
class Ranking:
    """A ranking of candidates by the chosen view.

    Attributes:
        crop: The view.
        order: Places of the candidates in the given list, best first. None when the policy's answer
            was INVALID: keep the order you had.
        scores: Cosine of each entry of `order`; None when INVALID.
    """

    crop: Crop
    order: list[int] | None
    scores: list[float] | None


class RegionReranker:
    """Decides where to look and ranks candidates by what is seen there.

    Args:
        policy: Decides.
        reranker: Ranks.
        prior: Pads the policy's boxes before they are cut.
        batch_size: Queries that are decided at once.
    """

    def __init__(
        self,
        policy: CropPolicy,
        reranker: RewardReranker,
        prior: CropPrior = CropPrior(),
        batch_size: int = 16,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        self.policy = policy.eval()
        self.reranker = reranker.eval()
        self.prior = prior
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str = "cpu", batch_size: int = 16
    ) -> RegionReranker:
        """Loads the folder `adapter` of a run, or what `regionr1 export --out` wrote.

        Args:
            folder: PEFT adapter with the settings it was trained with.
            device: Where policy and scorer run.
            batch_size: Queries that are decided at once.

        Raises:
            UserError: If the folder lacks something, or its base model cannot be loaded.
        """
        path = Path(folder) / SETTINGS
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            policy, reranker = dict(settings["policy"]), dict(settings["reranker"])
            prior = CropPrior(**settings["crop_prior"])
        except OSError as error:
            raise UserError(
                f"{folder} has no {SETTINGS}; give the folder `adapter` of a run or what "
                "`regionr1 export --out` wrote"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); export the run again") from error
        policy["adapter"] = str(folder)
        return cls(
            CropPolicy(**policy).to(device),
            RewardReranker(**reranker).to(device),
            prior,
            batch_size,
        )

    @overload
    def crop(self, images: Image.Image, questions: str) -> Crop: ...

    @overload
    def crop(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[Crop]: ...

    def crop(
        self, images: Image.Image | Sequence[Image.Image], questions: str | Sequence[str]
    ) -> Crop | list[Crop]:
        """The policy's greedy decision for one query or several.

        Args:
            images: An image, or B of them. What EXIF says of its orientation is applied first.
            questions: Its question, or B of them.

        Raises:
            UserError: If there is no image, or not as many questions.
        """
        single = isinstance(images, Image.Image)
        pairs = _pairs(images, questions)
        crops = [crop for part in self._parts(pairs) for crop in self._decide(part)]
        return crops[0] if single else crops

    @overload
    def rerank(self, images: Image.Image, questions: str, candidates: Candidates) -> Ranking: ...

    @overload
    def rerank(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[str],
        candidates: Sequence[Candidates],
    ) -> list[Ranking]: ...

    def rerank(self, images: Any, questions: Any, candidates: Any) -> Ranking | list[Ranking]:
        """Candidates ranked by the chosen view, for one query or several.

        Args:
            images: An image, or B of them; see `crop`.
            questions: Its question, or B of them.
            candidates: Candidates of the query, or B lists of them: images, (image, text) pairs or
                embeddings (K, D).

        Raises:
            UserError: If a query has no candidates, or the lists are not equally long.
        """
        single = isinstance(images, Image.Image)
        pools = [candidates] if single else list(candidates)
        pairs = _pairs(images, questions)
        if len(pools) != len(pairs):
            raise UserError(f"{len(pairs)} queries but {len(pools)} lists of candidates")
        for index, pool in enumerate(pools):
            if len(pool) == 0:
                raise UserError(f"query {index} has no candidates; give it at least one")
        crops = self.crop(*map(list, zip(*pairs, strict=True)))
        views = [crop.view for crop in crops if crop.view is not None]
        seen = iter(self.reranker.scorer.embed_images(views)) if views else iter(())
        rankings = []
        for crop, pool in zip(crops, pools, strict=True):
            if crop.view is None:
                rankings.append(Ranking(crop, None, None))
                continue
            scores = self.reranker.scores(next(seen)[None, None], self.embed(pool)[None])[0]
            ranked = order(scores, torch.ones_like(scores, dtype=torch.bool))[0].tolist()
            rankings.append(Ranking(crop, ranked, scores[0, ranked].tolist()))
        return rankings[0] if single else rankings

    def embed(self, candidates: Candidates) -> Tensor:
        """Candidates as unit vectors (K, D), to be kept and given to `rerank` again."""
        dim = self.reranker.scorer.dim
        if isinstance(candidates, np.ndarray):
            candidates = torch.from_numpy(candidates)
        if isinstance(candidates, Tensor):
            if candidates.ndim != 2 or candidates.shape[1] != dim:
                raise UserError(
                    f"candidate embeddings are {tuple(candidates.shape)}, expected (K, {dim})"
                )
            return torch.nn.functional.normalize(candidates.float(), dim=-1)
        split = [c if isinstance(c, tuple) else (c, "") for c in candidates]
        images, texts = [_upright(image) for image, _ in split], [text for _, text in split]
        return self.reranker.scorer.embed_candidates(images, texts)

    def _parts(
        self, pairs: list[tuple[Image.Image, str]]
    ) -> Iterator[list[tuple[Image.Image, str]]]:
        for start in range(0, len(pairs), self.batch_size):
            yield pairs[start : start + self.batch_size]

    def _decide(self, pairs: Sequence[tuple[Image.Image, str]]) -> list[Crop]:
        images, questions = [image for image, _ in pairs], [question for _, question in pairs]
        rollouts = self.policy.greedy(images, questions)
        boxes = self.prior.pad(rollouts.boxes_unit)[:, 0]
        found = []
        decisions, p_full = rollouts.decision[:, 0].tolist(), rollouts.p_full.tolist()
        for image, number, box, p in zip(images, decisions, boxes, p_full, strict=True):
            decision = Decision(number)
            if decision is Decision.REGION:
                box_px = crop_px(box, *image.size)
                found.append(Crop(decision.name, box_px, image.crop(box_px), p))
            else:
                whole = image if decision is Decision.FULL else None
                found.append(Crop(decision.name, None, whole, p))
        return found


def _pairs(images: Any, questions: Any) -> list[tuple[Image.Image, str]]:
    if isinstance(images, Image.Image) != isinstance(questions, str):
        raise UserError("give one image and one question, or a list of each")
    if isinstance(images, Image.Image):
        return [(_upright(images), questions)]
    if not images or len(images) != len(questions):
        raise UserError(f"{len(images)} images and {len(questions)} questions: need as many, >= 1")
    return [(_upright(image), text) for image, text in zip(images, questions, strict=True)]


def _upright(image: Any) -> Image.Image:
    """Turn the image as its EXIF says and make it RGB, which is what training saw."""
    if not isinstance(image, Image.Image):
        raise UserError(f"an image must be a PIL image, not a {type(image).__name__}: open it")
    return upright_rgb(image)
