"""What a training step logs, on one rank and on several."""

import pytest
import torch
from written_policy import FULL, GREEN, NONSENSE, RED, colour_batch, module, written

from regionr1.algorithm.rewards import RewardWeights
from regionr1.training.metrics import DecisionAuroc, mean_over_ranks, training_metrics
from regionr1.training.reward import earn


def test_only_completions_without_an_end_are_cut_off(tiny_policy) -> None:
    policy, batch = written(tiny_policy), colour_batch(["red"])
    rollouts = policy.read(batch.images, batch.questions, [[RED, FULL]])
    rewards, ends = torch.zeros(1, 2), policy.tokens.eos

    def clipped() -> float:
        entropy = torch.zeros(rollouts.mask.shape)
        logged = training_metrics(rollouts, {}, rewards, entropy, ends)
        return logged["completions/clipped_ratio"].item()

    assert clipped() == 0, "the longest ends where the room does, and it ends"
    longest = rollouts.mask.sum(-1).argmax()
    rollouts.completion_ids[0, longest, -1] = 5
    assert clipped() == 0.5


def test_metrics_are_means_over_ranks() -> None:
    nan = torch.tensor(float("nan"))
    ours = {"kl": torch.tensor(1.0), "box/area": nan, "reward/full": nan, "reward": nan}
    theirs = torch.tensor([3.0, 0.4, float("nan"), 1.0])
    means = mean_over_ranks(ours, lambda values: torch.stack([values, theirs]))
    assert means["kl"] == 2 and means["box/area"].item() == pytest.approx(0.4)
    assert "reward/full" not in means, "no rank had a FULL"
    assert means["reward"].isnan(), "a reward that is not a number is not hidden by another rank"
    alone = mean_over_ranks({"kl": torch.tensor(1.0), "box/area": nan}, lambda values: values)
    assert alone == {"kl": 1.0}


def test_the_release_punishes_a_box_written_backwards(tiny_policy) -> None:
    policy, batch = written(tiny_policy), colour_batch(["green"])  # its full image ranks it first
    rollouts = policy.read(batch.images, batch.questions, [[NONSENSE, FULL, "pardon", GREEN]])
    rgrpo = module(policy)
    weights = RewardWeights(variant="release")
    earned = earn(batch, rollouts, rgrpo.reranker, rgrpo.crop_prior, weights, 0, rgrpo.policy.stage)
    assert earned.rewards[0, :3].tolist() == [-1.0, 1.0, 1.0]


def test_auroc_of_nothing_to_tell_apart_is_missing() -> None:
    """A validation of few queries may hold none where the crop and the full image differ."""
    auroc = DecisionAuroc(validate_args=False)
    auroc.update(torch.empty(0), torch.empty(0, dtype=torch.int))
    assert auroc.compute().isnan()
    auroc.update(torch.tensor([0.3, 0.9]), torch.tensor([0, 0]))
    auroc.reset()
    auroc.update(torch.tensor([0.3, 0.9]), torch.tensor([0, 0]))
    assert auroc.compute().isnan(), "of one kind only"
    auroc.update(torch.tensor([0.8]), torch.tensor([1]))
    assert auroc.compute() == 0.5
