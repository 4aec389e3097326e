"""Who a query is about, by a vote of its own views: a reward that needs no label.

Every view of a query (the full image and the crops of its group) scores the entities of its pool;
an entity counts as its best candidate. The votes of an entity are the sum over views of
exp(cosine / temperature), so that a view which matches one entity clearly outweighs many that match
none. Crops are many and of any quality, so the full image alone counts as much as all of them
together: without that, whatever lucky crop looks most like anything would name the winner, and
training would learn to crop.

The winner's candidates then stand in for positives, and what the vote leaves open is left out: a
query whose winner has too small a share of the votes teaches nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WITHOUT_LABELS = ("penalty", "encouragement")
"""Parts of a reward that say nothing of a ranking, and so count in full."""


class Vote(NamedTuple):
    """The vote of B queries.

    Attributes:
        labels: (B, K) bool, True for the candidates of the entity that won.
        confidence: (B,) its share of all votes, 0 to 1.
    """

    labels: Tensor
    confidence: Tensor


def vote(
    full_scores: Tensor,
    view_scores: Tensor,
    is_view: Tensor,
    entities: Tensor,
    temperature: float,
) -> Vote:
    """Lets the views of each query elect an entity of its pool; of equals the first wins.

    Args:
        full_scores: (B, K) cosines of the full image with the candidates.
        view_scores: (B, G, K) cosines of the crops; read where `is_view`.
        is_view: (B, G) bool, where a crop was made.
        entities: (B, K) the number of each candidate's entity, 0 to K - 1; -1 for padding.
        temperature: Of the votes, above 0; the smaller, the more the clearest view decides.
    """
    queries, n_crops, candidates = view_scores.shape
    crops = is_view.sum(1, keepdim=True).clamp(min=1)
    weight = torch.cat([crops.float().log(), torch.zeros_like(is_view, dtype=torch.float)], dim=1)
    scores = torch.cat([full_scores[:, None], view_scores], dim=1).float() / temperature
    used = torch.cat([torch.ones_like(is_view[:, :1]), is_view], dim=1)
    votes = (scores + weight[..., None]).masked_fill(~used[..., None], -torch.inf)
    votes = votes.masked_fill(entities[:, None] < 0, -torch.inf)
    place = entities.clamp(min=0)[:, None].expand(-1, n_crops + 1, -1)
    best = votes.new_full((queries, n_crops + 1, candidates), -torch.inf)
    by_entity = best.scatter_reduce(2, place, votes, "amax").logsumexp(1)
    share = by_entity.softmax(1)
    winner = share.argmax(1)
    return Vote(entities == winner[:, None], share.gather(1, winner[:, None])[:, 0])


def by_confidence(parts: dict[str, Tensor], confidence: Tensor, least: float) -> dict[str, Tensor]:
    """The parts of rewards, what rests on the vote times its confidence; 0 where that is too low.

    Args:
        parts: (B, G) each, as `reward_parts` names them.
        confidence: (B,), of the vote.
        least: Confidence below which a query is skipped.
    """
    counts = (confidence >= least).float()[:, None]
    weight = counts * confidence[:, None]
    return {
        name: part * (counts if name in WITHOUT_LABELS else weight) for name, part in parts.items()
    }


def entity_numbers(candidate_ids: Sequence[Sequence[str]], candidates: int) -> Tensor:
    """(B, K) numbers of each query's entities in order of first appearance, -1 for padding.

    Args:
        candidate_ids: B lists of the entity of each real candidate.
        candidates: K.
    """
    numbers = torch.full((len(candidate_ids), candidates), -1)
    for row, ids in zip(numbers, candidate_ids, strict=True):
        place = {entity: n for n, entity in enumerate(dict.fromkeys(ids))}
        row[: len(ids)] = torch.tensor([place[entity] for entity in ids])
    return numbers
