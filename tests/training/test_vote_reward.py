"""Rewards by a vote: no label is read, and what the vote leaves open is skipped and counted."""

from dataclasses import replace

import pytest
import torch
from written_policy import FULL, GREEN, NONSENSE, RED, OneBatch, colour_batch, module, trainer
from written_policy import written as written_policy

from regionr1.algorithm.rewards import RewardWeights
from regionr1.errors import UserError
from regionr1.training.reward import Earnings, earn

ANSWERS = [RED, GREEN, NONSENSE, FULL]


def earned(folder, batch, **weights) -> Earnings:
    """What ANSWERS earn on every query of a batch."""
    policy = written_policy(folder)
    rollouts = policy.read(batch.images, batch.questions, [ANSWERS] * len(batch))
    rgrpo = module(policy)
    reward = RewardWeights(**weights)
    return earn(batch, rollouts, rgrpo.reranker, rgrpo.crop_prior, reward, 0, policy.stage)


def test_scrambled_labels_change_no_reward(tiny_policy) -> None:
    batch = colour_batch()
    scrambled = replace(
        batch,
        labels=~batch.labels,
        gold_ids=[["blue"]] * len(batch),
        clusters=["nothing"] * len(batch),
    )
    first, second = (earned(tiny_policy, b, labels="vote") for b in (batch, scrambled))
    for name in ("rewards", "full", "invalid", "confidence"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert all(torch.equal(first.parts[name], part) for name, part in second.parts.items())
    given, other = (earned(tiny_policy, b) for b in (batch, scrambled))
    assert given.confidence is None and not torch.equal(given.rewards, other.rewards)


def test_the_winner_stands_in_for_the_positive(tiny_policy) -> None:
    # Full image and green crop say green, the red crop alone says red: green wins every query.
    voted = earned(tiny_policy, colour_batch(["red"]), labels="vote", full_correct=0.2)
    given = earned(tiny_policy, colour_batch(["green"]), full_correct=0.2)
    assert torch.equal(voted.parts["mrr"].sign(), given.parts["mrr"].sign())
    share = voted.confidence.item()
    assert 0.3 < share < 1
    assert voted.parts["margin"] == pytest.approx(given.parts["margin"] * share, abs=1e-6)
    assert voted.full.item() == pytest.approx(0.2 * share)
    assert voted.invalid.item() == -1, "an answer that cannot be read takes no vote"


def test_an_unsure_query_is_skipped_and_counted(tiny_policy) -> None:
    skipped = earned(tiny_policy, colour_batch(["red"]), labels="vote", vote_share=1.0)
    assert not skipped.rewards.any() and skipped.full == 0 and skipped.invalid == 0

    policy, batch = written_policy(tiny_policy), colour_batch(["red"])
    policy.groups = {batch.questions[0]: [RED, FULL]}
    for least, share in ((0.0, 0.0), (1.0, 1.0)):
        run = trainer(1)
        reward = RewardWeights(labels="vote", vote_share=least)
        run.fit(module(policy, reward=reward), datamodule=OneBatch(batch))
        assert run.callback_metrics["vote/skipped"] == share
        assert 0 < run.callback_metrics["vote/confidence"] < 1
    run = trainer(1)
    run.fit(module(policy), datamodule=OneBatch(batch))
    assert "vote/skipped" not in run.callback_metrics


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"labels": "votes"}, "model.reward.labels is 'votes': use given or vote"),
        ({"vote_temperature": 0.0}, "model.reward.vote_temperature is 0.0: set it above 0"),
        ({"vote_share": 1.5}, "model.reward.vote_share is 1.5: set it from 0 to 1"),
    ],
)
def test_wrong_settings_are_refused(wrong, says) -> None:
    with pytest.raises(UserError, match=says.replace(".", r"\.")):
        RewardWeights(**wrong)
