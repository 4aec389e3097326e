"""What a group of rollouts earns: crops cut and embedded, and ranked against the full image."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from regionr1.algorithm.answers import NO_AREA, Decision
from regionr1.algorithm.boxes import CropPrior
from regionr1.algorithm.objective import Group
from regionr1.algorithm.rewards import RewardWeights, reward_parts, total
from regionr1.algorithm.vote import by_confidence, entity_numbers, vote
from regionr1.data.shards.batch import QueryBatch
from regionr1.policy.crops import crop_rectangles
from regionr1.policy.rollout import Rollouts
from regionr1.policy.tokens import AnswerTokens
from regionr1.scorers.reranker import EncodedCrops, RewardReranker

KNOWN = (Decision.FULL, Decision.INVALID)  # what they earn takes no rollout


class Earnings(NamedTuple):
    """Rewards of B queries.

    Attributes:
        rewards: (B, G).
        parts: The named parts they are the sum of, (B, G) each.
        full: (B,) what FULL would earn.
        invalid: (B,) what an answer that cannot be read would earn.
        views: The crops, embedded.
        confidence: (B,) of the vote, where the rewards rest on one.
    """

    rewards: Tensor
    parts: dict[str, Tensor]
    full: Tensor
    invalid: Tensor
    views: EncodedCrops
    confidence: Tensor | None = None


def as_group(
    rollouts: Rollouts, tokens: AnswerTokens, rewards: Tensor, full: Tensor, other: Tensor
) -> Group:
    """Keeps of rollouts and rewards what the loss needs.

    Args:
        rollouts: G answers to each of B queries.
        tokens: The answers' tokens.
        rewards: (B, G).
        full: (B,) what FULL would earn.
        other: (B,) what an answer that is neither FULL nor REGION would earn.
    """
    decisive = len(tokens.shared)
    region = rollouts.completion_ids[..., decisive] == tokens.region[decisive]
    return Group(
        mask=rollouts.chosen,
        forced=rollouts.forced,
        decides=tokens.deciding(rollouts.mask),
        region=region & rollouts.forced[..., decisive],
        decision=rollouts.decision,
        rewards=rewards,
        full_reward=full,
        other_reward=other,
    )


def earn(
    batch: QueryBatch,
    rollouts: Rollouts,
    reranker: RewardReranker,
    prior: CropPrior,
    weights: RewardWeights,
    step: int,
    stage: Callable[[str], AbstractContextManager[object]],
) -> Earnings:
    """Cuts, embeds and ranks the crops of rollouts, and rewards what they changed.

    Args:
        batch: B queries.
        rollouts: G answers to each.
        reranker: Embeds and scores the crops.
        prior: Pads crops, penalises bad boxes, encourages REGION.
        weights: What each part of the reward counts.
        step: The optimizer step, for the encouragement.
        stage: Context around `crop + encode` and `reward`; to time them.
    """
    with stage("crop + encode"):
        views = reranker.views(batch.images, crop_rectangles(batch, rollouts, prior), batch.keys)
    device, group = batch.candidates.device, rollouts.decision.shape[1]
    more = (0, 0, 0, len(KNOWN))  # whatever stands for their views is never read
    decision = rollouts.decision.to(device)
    known = decision.new_tensor(KNOWN).expand(len(batch), -1)
    boxes = pad(rollouts.boxes_unit.to(device), more, value=math.nan)
    thin = [[action.reason == NO_AREA for action in row] for row in rollouts.actions]
    thin_box = pad(torch.tensor(thin, device=device), (0, len(KNOWN)))
    sizes = torch.tensor([batch.heights, batch.widths], device=device).T
    with stage("reward"):
        full = reranker.scores(batch.full_embedding[:, None], batch.candidates)[:, 0]
        scores = reranker.scores(pad(views.embeddings.to(device), more), batch.candidates)
        labels, confidence = batch.labels, None
        if weights.labels == "vote":
            labels, confidence = vote(
                full,
                scores[:, :group],
                decision == Decision.REGION,
                entity_numbers(batch.candidate_ids, full.shape[1]).to(device),
                weights.vote_temperature,
            )
        parts = reward_parts(
            torch.cat([decision, known], dim=1),
            scores,
            full,
            labels,
            batch.valid,
            prior.penalty(boxes, sizes).masked_fill(thin_box, 1.0),
            prior.bonus(step),
            weights,
        )
        if confidence is not None:
            parts = by_confidence(parts, confidence, weights.vote_share)
        rewards = total(parts)
    sampled = {name: part[:, :group] for name, part in parts.items()}
    full_reward, invalid = rewards[:, group], rewards[:, group + 1]
    return Earnings(rewards[:, :group], sampled, full_reward, invalid, views, confidence)
