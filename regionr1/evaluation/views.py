"""Ranks the candidates of a batch by the views that the policy and the baselines choose."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regionr1.algorithm.answers import Decision
from regionr1.algorithm.boxes import CropPrior, crop_px, iou, px_to_unit
from regionr1.algorithm.ranking import entity_ranking, first_positive_rank, margin, ndcg, order
from regionr1.data.shards.batch import QueryBatch
from regionr1.evaluation.pictures import Case
from regionr1.evaluation.predictions import Prediction
from regionr1.evaluation.table import Outcome
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.crops import crop_rectangles
from regionr1.policy.prompt import Prompt
from regionr1.policy.rollout import Rollouts
from regionr1.scorers.reranker import BoxPx, RewardReranker

CENTRES = {"centre_35": 0.35, "centre": 0.5, "centre_70": 0.7}
"""Rows of centre crops, and their side as a share of the image's."""
SOFT_TEMPERATURE = 0.05  # in cosines
_NEVER = 1e-30  # a probability whose logarithm is finite and outweighs any cosine
RANDOM_SIDES = (0.3, 0.7)  # of a random box where the policy has none to be as large as

BoxUnit = tuple[float, float, float, float]


@dataclass
class Views:
    """One chosen view per query and the ranking it gives.

    Attributes:
        decisions: B decisions.
        crops_px: B rectangles that were cut (xyxy, original pixels); None unless REGION.
        scores: (B, K) scores of the candidates; meaningless where INVALID.
        ranks: B 1-based ranks of the first positive; inf without one, and for INVALID.
        ndcgs: B NDCGs; 0 for INVALID.
        rankings: B lists of entity ids; None for INVALID.
        ious: B overlaps of the crop with the reference box; None where either is missing.
        margins: B gaps between the best positive's and the best negative's score; None where there
            is no such pair, and for INVALID.
        p_full: (B,) exact probabilities of FULL at temperature 1; NaN where no policy chose.
    """

    decisions: list[Decision]
    crops_px: list[BoxPx | None]
    scores: Tensor
    ranks: list[float]
    ndcgs: list[float]
    rankings: list[list[str] | None]
    ious: list[float | None]
    margins: list[float | None]
    p_full: Tensor


class Evaluator:
    """Evaluates views of queries; holds no state of its own.

    Args:
        policy: Chooses views.
        reranker: Scores them.
        prior: Pads the policy's crops before they are cut.
        soft_fusion: Whether a test has the row `policy_soft` too.
    """

    def __init__(
        self,
        policy: CropPolicy,
        reranker: RewardReranker,
        prior: CropPrior,
        soft_fusion: bool = False,
    ) -> None:
        self._policy = policy
        self.reranker = reranker
        self.prior = prior
        self.soft_fusion = soft_fusion

    def full(self, batch: QueryBatch) -> Views:
        """The full image of every query, from its stored embedding."""
        return self._views(batch, [Decision.FULL] * len(batch), [None] * len(batch))

    def policy(self, batch: QueryBatch, force_region: bool = False) -> Views:
        """Views of the policy's greedy decisions."""
        rollouts = self._policy.greedy(batch.images, batch.questions, force_region)
        return self._of_answer(batch, rollouts, 0)

    def policy_both(self, batch: QueryBatch) -> tuple[Views, Views]:
        """Views of the policy's greedy decisions, and of its regions where it must crop."""
        return self._both(batch, self._policy.encode(batch.images, batch.questions))

    def _both(
        self, batch: QueryBatch, prompt: Prompt, use_adapter: bool = True
    ) -> tuple[Views, Views]:
        rollouts = self._policy.greedy_both(prompt, use_adapter)
        return self._of_answer(batch, rollouts, 0), self._of_answer(batch, rollouts, 1)

    def _of_answer(self, batch: QueryBatch, rollouts: Rollouts, g: int) -> Views:
        crops = [row[g] for row in crop_rectangles(batch, rollouts, self.prior)]
        decisions = [Decision(row[g]) for row in rollouts.decision.tolist()]
        return self._views(batch, decisions, crops, rollouts.p_full)

    def boxes(self, batch: QueryBatch, boxes_unit: Sequence[Sequence[float]]) -> Views:
        """Views of given boxes (B, 4), one for every query."""
        crops = [
            crop_px(torch.tensor(box), width, height)
            for box, width, height in zip(boxes_unit, batch.widths, batch.heights, strict=True)
        ]
        return self._views(batch, [Decision.REGION] * len(batch), list(crops))

    def soft(self, batch: QueryBatch, full: Views, chosen: Views, region: Views) -> Views:
        """Full image and crop together, each by how probable the policy finds it.

        A candidate's score is t log(P(FULL) exp(full / t) + P(REGION) exp(crop / t)): where the
        policy is sure, that of its view; where it is not, that of the view which matches more
        clearly. What the policy chose stands beside it, and its INVALID stays one.

        Args:
            batch: B queries.
            full: Their full images.
            chosen: What the policy chose.
            region: Its crops where it must make one.
        """
        p = chosen.p_full.to(full.scores.device)[:, None]
        cut = torch.tensor([d == Decision.REGION for d in region.decisions], device=p.device)
        crop_scores = torch.where(cut[:, None], region.scores, full.scores)
        both = torch.stack(
            [
                full.scores / SOFT_TEMPERATURE + p.clamp(min=_NEVER).log(),
                crop_scores / SOFT_TEMPERATURE + (1 - p).clamp(min=_NEVER).log(),
            ]
        )
        scores = SOFT_TEMPERATURE * both.logsumexp(0)
        return self._ranked(batch, chosen.decisions, chosen.crops_px, scores, chosen.p_full)

    def outcomes(self, batch: QueryBatch) -> list[Outcome]:
        """Every method of the test table on every query of the batch."""
        prompt = self._policy.encode(batch.images, batch.questions)
        chosen, region = self._both(batch, prompt)
        before, before_region = self._both(batch, prompt, use_adapter=False)
        full = self.full(batch)
        methods = {
            "full": full,
            **{
                name: self.boxes(batch, [centre_box(side)] * len(batch))
                for name, side in CENTRES.items()
            },
            "random": self.boxes(batch, self._random_boxes(batch, region.crops_px)),
            "warm_start": before,
            "warm_start_region": before_region,
            "policy": chosen,
            "policy_region": region,
        }
        if self.soft_fusion:
            methods["policy_soft"] = self.soft(batch, full, chosen, region)
        outcomes = [o for method, views in methods.items() for o in _outcomes(batch, method, views)]
        # A tie goes to FULL: a crop that changes nothing is not worth making.
        pairs = zip(
            _outcomes(batch, "better_of", full), _outcomes(batch, "better_of", region), strict=True
        )
        # No policy chose between the two, so no P(FULL) stands beside the choice.
        outcomes += [replace(b if b.rank < a.rank else a, p_full=None) for a, b in pairs]
        known = batch.reference_box_unit.isfinite().all(-1)
        if known.any():
            whole = batch.reference_box_unit.new_tensor([0.0, 0.0, 1.0, 1.0])  # dropped below
            filled = batch.reference_box_unit.where(known[:, None], whole)
            reference = _outcomes(batch, "reference", self.boxes(batch, filled.tolist()))
            outcomes += [o for o, has in zip(reference, known.tolist(), strict=True) if has]
        return outcomes

    def full_and_crop(self, batch: QueryBatch) -> list[Outcome]:
        """What the policy decides between: the full image and its own crop, of every query."""
        views = {"full": self.full(batch), "policy_region": self.policy(batch, force_region=True)}
        return [o for method, of in views.items() for o in _outcomes(batch, method, of)]

    def predictions(self, batch: QueryBatch) -> list[Prediction]:
        """The policy's decision, box and ranking of every query."""
        full, chosen = self.full(batch), self.policy(batch)
        warm_start = self._policy.p_full(batch.images, batch.questions, use_adapter=False)
        p_full, p_full_warm_start = chosen.p_full.tolist(), warm_start.tolist()
        found = []
        for b, key in enumerate(batch.keys):
            ranking, by_full = chosen.rankings[b], full.rankings[b]
            assert by_full is not None  # of INVALID answers alone
            found.append(
                Prediction(
                    key=key,
                    data_id=batch.data_ids[b] or None,
                    image=batch.image_names[b],
                    question=batch.questions[b],
                    gold_ids=batch.gold_ids[b],
                    size=(batch.widths[b], batch.heights[b]),
                    decision=chosen.decisions[b].name,
                    box_px=chosen.crops_px[b],
                    p_full=p_full[b],
                    p_full_warm_start=p_full_warm_start[b],
                    ranking_full=by_full,
                    scores_full=_scores_of(by_full, batch.candidate_ids[b], full.scores[b]),
                    ranking=ranking,
                    scores=None
                    if ranking is None
                    else _scores_of(ranking, batch.candidate_ids[b], chosen.scores[b]),
                )
            )
        return found

    def examples(self, batch: QueryBatch, full: Views, chosen: Views) -> list[Case]:
        """What the gallery of crops shows of every query."""
        references = batch.reference_box_unit.tolist()
        return [
            Case(
                image=batch.images[b],
                question=batch.questions[b],
                decision=chosen.decisions[b].name,
                box_px=chosen.crops_px[b],
                reference_box_px=None
                if references[b][0] != references[b][0]
                else crop_px(references[b], batch.widths[b], batch.heights[b]),
                rank_full=full.ranks[b],
                rank_view=chosen.ranks[b],
            )
            for b in range(len(batch))
        ]

    def _random_boxes(self, batch: QueryBatch, crops: list[BoxPx | None]) -> list[BoxUnit]:
        """For each query a box as large as the policy's crop, where it has one, at another place.

        The areas of the paper's random crop follow the learned policy's too. With the size given,
        the row tells what the place is worth.
        """
        sizes = zip(batch.keys, crops, batch.widths, batch.heights, strict=True)
        return [
            random_box(key, None if crop is None else _sides(crop, width, height))
            for key, crop, width, height in sizes
        ]

    def _views(
        self,
        batch: QueryBatch,
        decisions: list[Decision],
        crops: list[BoxPx | None],
        p_full: Tensor | None = None,
    ) -> Views:
        # By key, so that a crop which several methods choose is embedded once.
        asked = [[crop] for crop in crops]
        cut = self.reranker.views(batch.images, asked, batch.keys).embeddings[:, 0]
        is_region = torch.tensor([d == Decision.REGION for d in decisions], device=cut.device)
        view = torch.where(is_region[:, None], cut, batch.full_embedding)
        scores = self.reranker.scores(view[:, None], batch.candidates)[:, 0]
        return self._ranked(batch, decisions, crops, scores, p_full)

    def _ranked(
        self,
        batch: QueryBatch,
        decisions: list[Decision],
        crops: list[BoxPx | None],
        scores: Tensor,
        p_full: Tensor | None,
    ) -> Views:
        ranks = first_positive_rank(scores, batch.labels, batch.valid).tolist()
        gains = ndcg(scores, batch.labels, batch.valid).tolist()
        gaps = margin(scores, batch.labels, batch.valid, "max").tolist()
        paired = (batch.labels & batch.valid).any(-1) & (~batch.labels & batch.valid).any(-1)
        margins: list[float | None] = [
            gap if told else None for gap, told in zip(gaps, paired.tolist(), strict=True)
        ]
        orders = order(scores, batch.valid)
        rankings: list[list[str] | None] = []
        overlaps: list[float | None] = []
        for b, decision in enumerate(decisions):
            rankings.append(entity_ranking(orders[b], batch.candidate_ids[b]))
            crop, reference, overlap = crops[b], batch.reference_box_unit[b].cpu(), None
            if decision == Decision.INVALID:  # no view, so no ranking: a miss, never the full image
                ranks[b], gains[b], rankings[b], margins[b] = float("inf"), 0.0, None, None
            if crop is not None and bool(reference.isfinite().all()):
                unit = px_to_unit(crop, batch.widths[b], batch.heights[b])
                overlap = float(iou(unit, reference))
            overlaps.append(overlap)
        if p_full is None:
            p_full = torch.full((len(batch),), float("nan"))
        return Views(decisions, crops, scores, ranks, gains, rankings, overlaps, margins, p_full)


def centre_box(side: float) -> BoxUnit:
    """The box in the middle of the unit square whose sides are `side`."""
    return (0.5 - side / 2, 0.5 - side / 2, 0.5 + side / 2, 0.5 + side / 2)


def random_box(key: str, sides: tuple[float, float] | None = None) -> BoxUnit:
    """A box of the unit square at a place that depends on the query's key alone.

    Args:
        key: Key of the query.
        sides: Width and height, 0 to 1; None draws both between RANDOM_SIDES, by the key too.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    low, high = RANDOM_SIDES
    drawn = (low + (high - low) * torch.rand(2, generator=generator)).tolist()
    w, h = sides or drawn
    x, y = torch.rand(2, generator=generator).tolist()
    return x * (1 - w), y * (1 - h), x * (1 - w) + w, y * (1 - h) + h


def _scores_of(ranking: Sequence[str], entities: Sequence[str], scores: Tensor) -> list[float]:
    """The score of each entry of a ranking; an entity scores as its best picture."""
    best: dict[str, float] = {}
    for entity, score in zip(entities, scores.tolist(), strict=False):  # scores are padded
        best[entity] = max(score, best.get(entity, score))
    return [best[entity] for entity in ranking]


def _sides(crop: BoxPx, width: int, height: int) -> tuple[float, float]:
    left, top, right, bottom = crop
    return (right - left) / width, (bottom - top) / height


def _outcomes(batch: QueryBatch, method: str, views: Views) -> list[Outcome]:
    positive = (batch.labels & batch.valid).any(-1).tolist()
    p_full = views.p_full.tolist()
    found = []
    for b, key in enumerate(batch.keys):
        crop = views.crops_px[b]
        box = None
        if crop is not None:
            x1, y1, x2, y2 = px_to_unit(crop, batch.widths[b], batch.heights[b]).tolist()
            box = (x1, y1, x2, y2)
        found.append(
            Outcome(
                key=key,
                cluster=batch.clusters[b],
                method=method,
                ranking=views.rankings[b],
                gold_ids=batch.gold_ids[b],
                pool_has_positive=positive[b],
                rank=views.ranks[b],
                ndcg=views.ndcgs[b],
                decision=views.decisions[b].name,
                box_unit=box,
                iou=views.ious[b],
                groups=batch.groups[b],
                p_full=None if math.isnan(p_full[b]) else p_full[b],
                margin=views.margins[b],
                data_id=batch.data_ids[b] or None,
            )
        )
    return found
