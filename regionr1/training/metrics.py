"""What a run logs: TRL's names where TRL has one, and ours for decisions, boxes and rankings."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryAUROC
from torchmetrics.utilities import dim_zero_cat

from regionr1.algorithm.advantages import dead_group_fraction
from regionr1.algorithm.answers import Decision
from regionr1.algorithm.boxes import area, clamp_unit
from regionr1.data.shards.batch import QueryBatch
from regionr1.evaluation.views import Views
from regionr1.policy.rollout import Rollouts
from regionr1.scorers.reranker import EncodedCrops


def training_metrics(
    rollouts: Rollouts,
    parts: dict[str, Tensor],
    rewards: Tensor,
    token_entropy: Tensor,
    ends: Tensor,
) -> dict[str, Tensor]:
    """The metrics of one training step, scalars; NaN where there was nothing to average.

    Args:
        rollouts: G answers to each of B queries.
        parts: Named reward parts, (B, G) each.
        rewards: Their sum (B, G).
        token_entropy: (B, G, T) entropies in nats.
        ends: (n,) ids that end a completion; one without was cut off.
    """
    mask = rollouts.mask
    lengths = mask.sum(-1)
    last = rollouts.completion_ids.gather(-1, lengths[..., None] - 1)[..., 0]
    region = rollouts.decision == Decision.REGION
    p = rollouts.p_full.double().clamp(1e-12, 1 - 1e-12)
    metrics = {
        "reward": rewards.mean(),
        "reward_std": rewards.std(),
        "frac_reward_zero_std": dead_group_fraction(rewards),
        "completions/mean_length": lengths.float().mean(),
        "completions/max_length": lengths.max().float(),
        "completions/clipped_ratio": (~torch.isin(last, ends.to(last.device))).float().mean(),
        "entropy": (token_entropy.detach() * mask).sum() / rollouts.chosen.sum(),
        "decision/region_rate": region.float().mean(),
        "decision/p_full": rollouts.p_full.mean(),
        "decision/entropy": (-p * p.log() - (1 - p) * (1 - p).log()).mean().float(),
        "box/invalid_rate": (rollouts.decision == Decision.INVALID).float().mean(),
    }
    for name, part in parts.items():
        metrics[f"rewards/{name}/mean"] = part.mean()
        metrics[f"rewards/{name}/std"] = part.std()
    metrics["box/area"] = area(clamp_unit(rollouts.boxes_unit[region])).mean()
    metrics["reward/region"] = rewards[region.to(rewards.device)].mean()
    metrics["reward/full"] = rewards[(rollouts.decision == Decision.FULL).to(rewards.device)].mean()
    return metrics


def mean_over_ranks(
    metrics: dict[str, Tensor], gather: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Means of what every rank measured.

    Args:
        metrics: Scalars under the same names on every rank.
        gather: From a tensor to those of all ranks, stacked; one rank's may stay as it is.

    Returns:
        Without those that had nothing to average on any rank.
    """
    values = torch.stack([value.detach().float().cpu() for value in metrics.values()])
    ranks = gather(values).view(-1, len(values))
    means = dict(zip(metrics, ranks.mean(0), strict=True))
    for name in ("box/area", "reward/region", "reward/full"):
        if name in means:
            means[name] = ranks[:, list(metrics).index(name)].nanmean()
            if means[name].isnan():
                del means[name]
    return means


def scorer_metrics(views: EncodedCrops) -> dict[str, Tensor]:
    """What the scorer had to encode for a step, and the share of crops it did not have to."""
    hits = 1 - views.n_encoded / views.n_crops if views.n_crops else 0.0
    return {
        "scorer/images_encoded": torch.tensor(float(views.n_encoded)),
        "scorer/cache_hit_rate": torch.tensor(hits),
    }


def vote_metrics(confidence: Tensor, least: float) -> dict[str, Tensor]:
    """How sure the vote was that rewards rested on, and the share of queries that it skipped."""
    skipped = (confidence < least).float().mean()
    return {"vote/confidence": confidence.mean(), "vote/skipped": skipped}


class DecisionAuroc(BinaryAUROC):
    """AUROC that is NaN where there is nothing to tell apart, instead of an error or 0."""

    def compute(self) -> Tensor:  # type: ignore[override]
        """The area under the curve, or NaN."""
        target = dim_zero_cat(self.target)
        if len(target.unique()) < 2:
            return torch.tensor(math.nan, device=target.device)
        return super().compute()


class ViewMetrics(nn.Module):
    """Validation metrics of the policy's views, right across batches and ranks.

    Conditional metrics (`cond_*`) are over queries whose pool holds a positive; IoU is over REGION
    answers to queries with a reference box. Whether the policy decides rightly is told by what its
    crop would have won: REGION rates where that ranks better and where the full image does, and how
    well P(REGION) tells these apart.
    """

    NAMES = (
        "recall_at_1", "cond_recall_at_1", "full_cond_recall_at_1", "mrr", "ndcg", "region_rate",
        "invalid_rate", "iou", "always_crop_cond_recall_at_1", "better_of_cond_recall_at_1",
        "region_rate_crop_better", "region_rate_full_better", "decision_auroc",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        # Nothing to average (no reference boxes, say) is NaN, and MLflow shows it as missing.
        self.metrics = nn.ModuleDict({name: MeanMetric() for name in self.NAMES})
        self.metrics["decision_auroc"] = DecisionAuroc(validate_args=False)

    def update(self, batch: QueryBatch, full: Views, chosen: Views, forced: Views) -> None:
        """Adds B queries, ranked by the full image, the chosen view and the policy's crop."""
        device = batch.labels.device
        positive = (batch.labels & batch.valid).any(-1)
        first = torch.tensor([rank == 1 for rank in chosen.ranks], device=device)
        full_first = torch.tensor([rank == 1 for rank in full.ranks], device=device)
        overlaps = [iou for iou in chosen.ious if iou is not None]
        values = {
            "recall_at_1": first,
            "cond_recall_at_1": first[positive],
            "full_cond_recall_at_1": full_first[positive],
            "mrr": torch.tensor([1 / rank for rank in chosen.ranks]),
            "ndcg": torch.tensor(chosen.ndcgs),
            "region_rate": torch.tensor([d == Decision.REGION for d in chosen.decisions]),
            "invalid_rate": torch.tensor([d == Decision.INVALID for d in chosen.decisions]),
            "iou": torch.tensor(overlaps),
        }
        by_full, by_crop = torch.tensor(full.ranks), torch.tensor(forced.ranks)
        region, answerable = values["region_rate"], positive.cpu()
        better, worse = (by_crop < by_full) & answerable, (by_crop > by_full) & answerable
        values |= {
            "always_crop_cond_recall_at_1": (by_crop == 1)[answerable],
            "better_of_cond_recall_at_1": (torch.minimum(by_full, by_crop) == 1)[answerable],
            "region_rate_crop_better": region[better],
            "region_rate_full_better": region[worse],
        }
        told = better | worse
        auroc = cast(BinaryAUROC, self.metrics["decision_auroc"])
        auroc.update(1 - chosen.p_full.cpu()[told].to(device), better[told].int().to(device))
        for name, value in values.items():
            if value.numel():
                cast(MeanMetric, self.metrics[name]).update(value.float().to(device))

    def as_dict(self) -> dict[str, Metric]:
        """The metric objects by the name they are logged under."""
        return {f"val/{name}": cast(Metric, self.metrics[name]) for name in self.NAMES}
