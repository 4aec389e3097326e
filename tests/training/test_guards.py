"""Traps on the way of a step: each is refused in a sentence, or shown to do no harm.

Missing mm_token_type_ids and stale rope deltas are in test_policy_processor.py, dropout while
sampling in test_policy.py, the decision at its limits as a pure function in test_decision.py.
"""

import json
import math
import shutil

import pytest
import torch
from tiny_policy import build_tiny_policy
from written_policy import (
    GREEN,
    NONSENSE,
    RED,
    OneBatch,
    colour_batch,
    module,
    move_adapter,
    trainer,
    written,
)

from regionr1.algorithm.advantages import AdvantageOptions
from regionr1.algorithm.decision import EstimatorOptions
from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.decode import decode
from regionr1.policy.prefix import prefill


def opened(folder, **options) -> CropPolicy:
    torch.manual_seed(0)
    policy = CropPolicy(str(folder), max_new_tokens=40, **options)
    move_adapter(policy)
    return policy


def test_decoding_in_train_mode_is_refused(tiny_policy) -> None:
    """With gradient checkpointing the layers would drop the cache, without an error."""
    policy = opened(tiny_policy, gradient_checkpointing=True, logprob_path="packed")
    batch = colour_batch(["red"])
    with torch.no_grad():
        prompt = policy.encode(batch.images, batch.questions)
        policy.eval()
        prefix = prefill(policy.base, prompt)
        policy.train()
        with pytest.raises(RuntimeError, match="eval mode"):
            decode(policy.base, prefix, policy.tokens, torch.full((2, 5), -1), 1.0)


@pytest.mark.parametrize("grammar", [False, True])
def test_checkpointing_samples_and_learns_the_same(tiny_policy, grammar) -> None:
    batch, states, texts = colour_batch(), [], []
    for options in ({}, {"gradient_checkpointing": True, "logprob_path": "packed"}):
        policy = opened(tiny_policy, grammar=grammar, **options)
        rgrpo = module(policy, decision="exact", group_size=4, kl_weight=0.1)
        trainer(1).fit(rgrpo, datamodule=OneBatch(batch))
        states.append(policy.adapter_state())
        noise = torch.Generator().manual_seed(0)
        texts.append(policy.sample(batch.images, batch.questions, 4, generator=noise).texts)
    assert texts[0] == texts[1]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_the_generation_config_of_a_hub_changes_nothing(tiny_policy, tmp_path) -> None:
    """Hub folders come with a temperature of 1e-6, which would make every rollout the same."""
    shutil.copytree(tiny_policy, tmp_path / "hub")
    path = tmp_path / "hub" / "generation_config.json"
    settings = {"do_sample": True, "temperature": 1e-6, "top_k": 1, "repetition_penalty": 1.05}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    batch, texts = colour_batch(["red"]), []
    for folder in (tiny_policy, tmp_path / "hub"):
        noise = torch.Generator().manual_seed(0)
        rollouts = opened(folder).sample(batch.images, batch.questions, 8, generator=noise)
        texts.append(rollouts.texts[0])
    assert texts[0] == texts[1] and len(set(texts[1])) > 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_scores_stop_the_step(tiny_policy, value) -> None:
    batch = colour_batch(["red", "green"])
    policy = written(tiny_policy)
    policy.groups = {question: [RED, GREEN] for question in batch.questions}
    rgrpo = module(policy, decision="exact")
    plain = rgrpo.reranker.scorer.embed_images

    def broken(images):
        embeddings = plain(images)
        embeddings[-1] = value
        return embeddings

    object.__setattr__(rgrpo.reranker.scorer, "embed_images", broken)
    with pytest.raises(UserError, match="query 1"):
        trainer(1).fit(rgrpo, datamodule=OneBatch(batch))


@pytest.mark.parametrize("grammar", [False, True])
def test_image_tokens_are_never_written(tmp_path, grammar) -> None:
    policy = opened(build_tiny_policy(tmp_path), grammar=grammar)
    config = policy.base.config
    vision = [config.image_token_id, config.video_token_id, config.vision_start_token_id]
    with torch.no_grad():
        policy.base.lm_head.weight[vision] *= 50  # as tempting as can be
    batch = colour_batch()
    rollouts = policy.sample(batch.images, batch.questions, 8)
    assert not torch.isin(rollouts.completion_ids, torch.tensor(vision)).any()
    result = policy.score(rollouts)
    assert result.logp.isfinite().all()


@pytest.mark.parametrize("decision", ["exact", "balanced", "on_policy"])
@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_groups_that_tie_teach_nothing_of_boxes(tiny_policy, decision, scale) -> None:
    """All rollouts alike: under `exact` the decision still learns, and nothing is ever NaN."""
    batch = colour_batch(["red"])
    policy = written(tiny_policy)
    policy.groups = {batch.questions[0]: [NONSENSE] * 3}
    before = {name: value.clone() for name, value in policy.adapter_state().items()}
    run = trainer(1)
    run.fit(
        module(policy, decision=decision, group_size=3, advantage=AdvantageOptions(scale)),
        datamodule=OneBatch(batch),
    )
    assert run.callback_metrics["frac_reward_zero_std"] == 1
    moved = any(not torch.equal(before[n], v) for n, v in policy.adapter_state().items())
    assert moved == (decision == "exact")
    assert all(value.isfinite().all() for value in policy.adapter_state().values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("certain", ["full", "region"])
@pytest.mark.parametrize("grammar", [False, True])
@pytest.mark.parametrize("decision", ["exact", "balanced"])
def test_a_certain_policy_trains_without_nan(tmp_path, dtype, certain, grammar, decision) -> None:
    """p(FULL) is 1 or 0 to the last bit, in the precision of the weights."""
    folder = build_tiny_policy(tmp_path)
    policy = opened(folder, grammar=grammar, dtype=dtype)
    batch = colour_batch(["red", "green"])
    with torch.no_grad():
        prompt = policy.encode(batch.images, batch.questions)
        hidden = prefill(policy.base, prompt).hidden.mean(0)
        sure, never = policy.tokens.full[0], policy.tokens.region[0]
        if certain == "region":
            sure, never = never, sure
        policy.base.lm_head.weight[sure] = 40 * hidden / hidden.norm()
        policy.base.lm_head.weight[never] = -40 * hidden / hidden.norm()
    p_full = policy.p_full(batch.images, batch.questions)
    assert (p_full - float(certain == "full")).abs().max() < 1e-6
    rgrpo = module(
        policy,
        decision=decision,
        group_size=3,
        kl_weight=0.1,
        kl="exact_decision",
        estimator=EstimatorOptions(decision_entropy=0.1, region_floor=0.2),
    )
    run = trainer(1)
    run.fit(rgrpo, datamodule=OneBatch(batch))
    assert all(run.callback_metrics[name].isfinite() for name in ("loss", "kl", "reward"))
    assert all(value.isfinite().all() for value in policy.adapter_state().values())
