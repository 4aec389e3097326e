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
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor

from regionr1.algorithm.answers import Decision
from regionr1.algorithm.boxes import CropPrior, crop_px
from regionr1.errors import UserError
from regionr1.policy.adapter_folder import SETTINGS
from regionr1.policy.crop_policy import CropPolicy
from regionr1.scorers.reranker import RewardReranker
from regionr1.serve.candidates import CandidateMemory, Candidates, upright
from regionr1.serve.ranking import Crop, Ranking, ScoreFunction, ordered, scored


class RegionReranker:
    """Decides where to look and ranks candidates by what is seen there; one thread at a time.

    Args:
        policy: Decides.
        reranker: Ranks; None for a policy alone, in front of a scoring function of yours.
        prior: Pads the policy's boxes before they are cut.
        batch_size: Queries that are decided at once.
        remember: Embeddings of candidates kept by their keys, the longest unused forgotten first.
    """

    def __init__(
        self,
        policy: CropPolicy,
        reranker: RewardReranker | None,
        prior: CropPrior = CropPrior(),
        batch_size: int = 16,
        remember: int = 65536,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        self.policy = policy.eval()
        self.reranker = None if reranker is None else reranker.eval()
        self.prior = prior
        self.batch_size = batch_size
        self.memory = CandidateMemory(remember)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str = "auto",
        batch_size: int = 16,
        policy_only: bool = False,
        model: str | None = None,
        scorer: str | dict[str, Any] | None = None,
        remember: int = 65536,
    ) -> RegionReranker:
        """Loads the folder `adapter` of a run, or what `regionr1 export --out` wrote.

        Args:
            folder: PEFT adapter with the settings it was trained with.
            device: Where policy and scorer run; `auto` takes a GPU if there is one.
            batch_size: Queries that are decided at once.
            policy_only: Load no scorer; `rerank` then needs a scoring function.
            model: The base weights, where they are not at the place they had in training.
            scorer: The scorer, where its weights are not at the place they had in training.
            remember: Embeddings of candidates kept by their keys.

        Raises:
            UserError: If the folder lacks something, its base model cannot be loaded, or there is
                no such device.
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
        where = find_device(device)
        policy["adapter"] = str(folder)
        if model is not None:
            policy["model"] = model
        elif Path(policy["model"]).is_absolute() and not Path(policy["model"]).exists():
            raise UserError(
                f"{path}: the base weights were at {policy['model']} where the policy was trained; "
                "say where they are with model="
            )
        inside = reranker["scorer"] if scorer is None else scorer
        if isinstance(inside, str) and scorer is None and (Path(folder) / inside).is_file():
            inside = str(Path(folder) / inside)
        return cls(
            CropPolicy(**policy).to(where),
            None if policy_only else RewardReranker(inside).to(where),
            prior,
            batch_size,
            remember,
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
    def rerank(
        self,
        images: Image.Image,
        questions: str,
        candidates: Candidates,
        keys: Sequence[str] | None = None,
        score: None = None,
    ) -> Ranking: ...

    @overload
    def rerank(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[str],
        candidates: Sequence[Candidates],
        keys: Sequence[Sequence[str]] | None = None,
        score: None = None,
    ) -> list[Ranking]: ...

    @overload
    def rerank(
        self, images: object, questions: object, candidates: object, *, score: ScoreFunction
    ) -> Any: ...

    def rerank(
        self,
        images: object,
        questions: object,
        candidates: object,
        keys: Any = None,
        score: ScoreFunction | None = None,
    ) -> Ranking | list[Ranking]:
        """Candidates ranked by the chosen view, for one query or several.

        Args:
            images: An image, or B of them; see `crop`.
            questions: Its question, or B of them.
            candidates: Candidates of the query, or B lists of them: images, (image, text) pairs or
                embeddings (K, D); with `score`, whatever it takes.
            keys: A name of each candidate, in the same lists: its embedding is remembered by it,
                and from then on None will do for the candidate.
            score: Called with view, question and candidates of a query; returns K numbers.

        Raises:
            UserError: If a query has no candidates, or the lists are not equally long.
        """
        single = isinstance(images, Image.Image)
        pairs = _pairs(images, questions)
        pools = [candidates] if single else _listed(candidates, "candidates")
        named = [keys] if single or keys is None else list(keys)
        named = named * len(pools) if keys is None else named
        if not len(pools) == len(pairs) == len(named):
            raise UserError(
                f"{len(pairs)} queries but {len(pools)} lists of candidates"
                + ("" if keys is None else f" and {len(named)} of keys")
            )
        for index, pool in enumerate(pools):
            if len(_listed(pool, f"the candidates of query {index}")) == 0:
                raise UserError(f"query {index} has no candidates; give it at least one")
        if score is None:
            self._scoring()  # before the policy has worked for nothing
        crops = [crop for part in self._parts(pairs) for crop in self._decide(part)]
        if score is not None:
            questions = [question for _, question in pairs]
            found = [scored(score, *row) for row in zip(crops, questions, pools, strict=True)]
        else:
            found = self.rank(crops, (self.embed(*row) for row in zip(pools, named, strict=True)))
        return found[0] if single else found

    def rank(self, crops: Sequence[Crop], pools: Iterator[Tensor]) -> list[Ranking]:
        """Rankings by views that were chosen before.

        Args:
            crops: What `crop` found.
            pools: Embeddings (K, D) of each one's candidates, asked for one query at a time.
        """
        reranker = self._scoring()
        views = [crop.view for crop in crops if crop.view is not None]
        seen = iter(reranker.scorer.embed_images(views)) if views else iter(())
        rankings = []
        for crop, pool in zip(crops, pools, strict=True):
            if crop.view is None:
                rankings.append(Ranking(crop, None, None))
                continue
            scores = reranker.scores(next(seen)[None, None], pool[None])[0, 0]
            rankings.append(ordered(crop, scores))
        return rankings

    def embed(self, candidates: Candidates, keys: Sequence[str] | None = None) -> Tensor:
        """Candidates as unit vectors (K, D), to be kept and given to `rerank` again.

        Args:
            candidates: K of them.
            keys: Their names; embeddings are remembered by them from call to call.

        Raises:
            UserError: Something is no candidate, or there are not as many keys.
        """
        return self.memory.embedded(self._scoring().scorer, candidates, keys, self.device)

    @property
    def device(self) -> torch.device:
        """Where policy and scorer run."""
        return self.policy.device

    def _scoring(self) -> RewardReranker:
        if self.reranker is None:
            raise UserError(
                "no scorer was loaded (policy_only=True): give rerank your scoring function as "
                "score=, or load the scorer too"
            )
        return self.reranker

    def _parts(
        self, pairs: list[tuple[Image.Image, str]]
    ) -> Iterator[list[tuple[Image.Image, str]]]:
        for start in range(0, len(pairs), self.batch_size):
            yield pairs[start : start + self.batch_size]

    def _decide(self, pairs: Sequence[tuple[Image.Image, str]]) -> list[Crop]:
        images, questions = [image for image, _ in pairs], [question for _, question in pairs]
        rollouts = self.policy.greedy(images, questions)
        boxes = self.prior.pad(rollouts.boxes_unit)[:, 0].cpu()
        found = []
        decisions = rollouts.decision[:, 0].tolist()
        chances = zip(rollouts.p_full.tolist(), rollouts.p_region.tolist(), strict=True)
        for image, number, box, p in zip(images, decisions, boxes, chances, strict=True):
            decision = Decision(number)
            if decision is Decision.REGION:
                box_px = crop_px(box, *image.size)
                found.append(Crop(decision.name, box_px, image.crop(box_px), *p))
            else:
                whole = image if decision is Decision.FULL else None
                found.append(Crop(decision.name, None, whole, *p))
        return found


def find_device(name: str) -> torch.device:
    """A device by name; `auto` takes a GPU if there is one.

    Raises:
        UserError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise UserError(
            f"device {name!r} is not to be had here; take 'cpu', or 'auto' for a GPU where there "
            "is one"
        ) from error
    return device


def _pairs(images: Any, questions: Any) -> list[tuple[Image.Image, str]]:
    if isinstance(images, str | Path):
        upright(images)
    if isinstance(images, Image.Image) != isinstance(questions, str):
        raise UserError("give one image and one question, or a list of each")
    if isinstance(images, Image.Image):
        return [(upright(images), questions)]
    if not images or len(images) != len(questions):
        raise UserError(f"{len(images)} images and {len(questions)} questions: need as many, >= 1")
    return [(upright(image), text) for image, text in zip(images, questions, strict=True)]


def _listed(values: object, what: str) -> Any:
    """What has a length and an order.

    Raises:
        UserError: One image, a path or a generator.
    """
    if isinstance(values, str | Path):
        raise UserError(f"{what} are a {type(values).__name__}: open the images and give a list")
    if not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
        raise UserError(f"{what} are a {type(values).__name__}: put them into a list")
    return values
