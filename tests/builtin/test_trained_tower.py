"""An adapter on the vision tower: nothing of the tower is reused, and everything else agrees."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_policy import build_tiny_policy, noise_images
from written_policy import (
    OneBatch,
    colour_batch,
    gradients,
    load_adapter,
    module,
    move_adapter,
    trainer,
)

from regionr1.algorithm.answers import Decision
from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.family import MODEL_TYPES, family_of

QUESTIONS = ["what?", "who painted this, and when?"]


@pytest.fixture(scope="module", params=sorted(MODEL_TYPES))
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory) -> str:
    return str(build_tiny_policy(tmp_path_factory.mktemp("policy"), family=family))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return noise_images([(50, 70), (130, 40)])


def opened(folder: str, **options) -> CropPolicy:
    torch.manual_seed(0)
    policy = CropPolicy(folder, max_new_tokens=40, lora_targets="all-linear", **options)
    move_adapter(policy)
    return policy


def in_tower(policy: CropPolicy) -> set[str]:
    own = {id(parameter) for parameter in policy.base.model.visual.parameters()}
    return {n for n, p in policy.named_parameters() if id(p) in own and p.requires_grad}


def test_every_path_gives_the_same_gradients_in_the_tower_too(folder, family, images) -> None:
    plain = opened(folder, logprob_path="dense")
    assert plain.vision is None and len(in_tower(plain)) > 4
    rollouts = plain.sample(images, QUESTIONS, 3, torch.tensor([[-1, Decision.REGION, -1]] * 2))
    expected = gradients(plain, rollouts)
    assert in_tower(plain) <= set(expected)
    assert min(expected[name].norm() for name in in_tower(plain)) > 0
    paths = [{"logprob_path": "two_pass"}]
    if not family_of(family).deepstack:
        paths.append({"logprob_path": "packed", "gradient_checkpointing": True})
    for options in paths:
        policy = opened(folder, **options)
        torch.testing.assert_close(policy.score(rollouts).logp, plain.score(rollouts).logp)
        for name, grad in gradients(policy, rollouts).items():
            assert (grad - expected[name]).norm() <= 2e-5 * expected[name].norm(), name


def test_the_loss_goes_on_from_the_prefill_tower_and_all(folder, images) -> None:
    policy = opened(folder)
    passes = []
    policy.base.model.visual.register_forward_pre_hook(lambda *_: passes.append(1))
    rollouts = policy.sample(images, QUESTIONS, 3)
    first = gradients(policy, rollouts)
    assert len(passes) == 1, "rollout and loss share what the tower saw, gradient and all"
    second = gradients(policy, rollouts)
    assert len(passes) == 2 and set(first) == set(second) >= in_tower(policy)
    for name, grad in second.items():
        assert (first[name] - grad).norm() <= 2e-5 * grad.norm(), name


def test_where_the_tower_has_not_moved_reuse_gives_the_same(folder, images) -> None:
    seen_again, reused = opened(folder), CropPolicy(folder, max_new_tokens=40)
    state = reused.adapter_state()
    with torch.no_grad():
        for name in in_tower(seen_again):
            if "lora_B" in name:
                seen_again.get_parameter(name).zero_()
    moved = seen_again.adapter_state()
    load_adapter(reused, {name: moved[name] for name in state})
    again = seen_again.sample(images, QUESTIONS, 2)
    kept = replace(again, prompt=reused.encode(images, QUESTIONS), prefix=None)
    assert again.prompt.features is None and kept.prompt.features is not None
    torch.testing.assert_close(seen_again.score(again).logp, reused.score(kept).logp)
    expected, found = gradients(reused, kept), gradients(seen_again, again)
    for name, grad in expected.items():
        assert (found[name] - grad).norm() <= 2e-5 * grad.norm(), name


def test_with_the_adapter_off_it_is_the_model_that_was_opened(folder, images) -> None:
    policy, untouched = opened(folder), CropPolicy(folder, max_new_tokens=40)
    rollouts = policy.sample(images, QUESTIONS, 2)
    reference = policy.score(rollouts, use_adapter=False).logp
    torch.testing.assert_close(reference, untouched.score(rollouts, use_adapter=False).logp)
    assert not torch.allclose(reference, policy.score(rollouts).logp, atol=1e-3)


def test_a_step_trains_the_tower_and_the_adapter_comes_back(folder, tmp_path) -> None:
    policy = opened(folder)
    before = {name: policy.get_parameter(name).clone() for name in in_tower(policy)}
    trainer(1).fit(module(policy), OneBatch(colour_batch()))
    assert any(not torch.equal(policy.get_parameter(n), old) for n, old in before.items())
    policy.save_adapter(tmp_path)
    again = CropPolicy(folder, adapter=str(tmp_path), max_new_tokens=40)
    batch = colour_batch()
    rollouts = policy.greedy(batch.images, batch.questions)
    torch.testing.assert_close(again.score(rollouts).logp, policy.score(rollouts).logp)


def test_its_features_are_not_kept_on_disk(folder, tmp_path) -> None:
    with pytest.raises(UserError, match="vision_cache=.* lora_targets"):
        opened(folder, vision_cache=str(tmp_path))
