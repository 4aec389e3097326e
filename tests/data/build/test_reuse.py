"""What is computed once and used again changes nothing: the prefill, and vision features."""

import pytest
import torch
from PIL import Image
from tiny_policy import build_tiny_policy, noise_images
from written_policy import gradients, move_adapter

from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy

QUESTIONS = ["what?", "who painted this, and when?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(build_tiny_policy(tmp_path_factory.mktemp("policy")))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return noise_images([(50, 70), (130, 40)])


def opened(folder: str, **options) -> CropPolicy:
    policy = CropPolicy(folder, max_new_tokens=40, **options)
    move_adapter(policy)
    return policy


@pytest.mark.parametrize("grammar", [True, False])
def test_the_loss_goes_on_from_the_rollouts_prefill(folder, images, grammar) -> None:
    policy = opened(folder, grammar=grammar)
    rollouts = policy.sample(images, QUESTIONS, 3)
    assert rollouts.prefix is not None
    with torch.no_grad():  # a reference pass in between leaves it alone
        policy.score(rollouts, use_adapter=False)
    reused = gradients(policy, rollouts)
    assert rollouts.prefix is None
    again = gradients(policy, rollouts)
    for name, grad in again.items():
        assert grad.abs().max() > 0 and (reused[name] - grad).norm() <= 1e-5 * grad.norm(), name


@pytest.mark.parametrize(
    "options",
    [
        {"lora_dropout": 0.1},
        {"logprob_path": "packed"},
        {"logprob_path": "packed", "gradient_checkpointing": True},
    ],
)
def test_a_prefill_that_the_loss_would_not_make_is_not_reused(folder, images, options) -> None:
    assert opened(folder, **options).sample(images, QUESTIONS, 2).prefix is None


def test_a_prefill_of_another_mode_is_not_reused(folder, images) -> None:
    policy = opened(folder, lora_dropout=0.5).eval()
    rollouts = policy.sample(images, QUESTIONS, 2)
    assert rollouts.prefix is not None
    policy.train()
    torch.manual_seed(0)
    first = policy.score(rollouts).logp
    torch.manual_seed(0)
    assert torch.equal(policy.score(rollouts).logp, first), "both prefilled with dropout"


def test_evaluation_keeps_no_prefill(folder, images) -> None:
    policy = opened(folder)
    with torch.no_grad():
        assert policy.sample(images, QUESTIONS, 2).prefix is None
    assert policy.greedy(images, QUESTIONS).prefix is None


def test_features_on_disk_are_the_features(folder, images, tmp_path) -> None:
    plain = opened(folder).encode(images, QUESTIONS)
    first = opened(folder, vision_cache=str(tmp_path))
    assert torch.equal(first.encode(images, QUESTIONS).features, plain.features)
    assert first.vision.computed == 2 and len(list(tmp_path.rglob("*.safetensors"))) == 2
    second = opened(folder, vision_cache=str(tmp_path))
    assert torch.equal(second.encode(images, QUESTIONS).features, plain.features)
    assert second.vision.computed == 0
    mixed = second.encode([images[1], images[0].rotate(180)], QUESTIONS)
    expected = opened(folder).encode([images[1], images[0].rotate(180)], QUESTIONS)
    torch.testing.assert_close(mixed.features, expected.features, atol=1e-5, rtol=0)
    assert second.vision.computed == 1, "the one image that is new"
    assert not list(tmp_path.rglob("*.part"))


def test_the_passes_of_an_evaluation_share_features(folder, images) -> None:
    policy = opened(folder)
    for _ in range(3):
        policy.greedy(images, QUESTIONS)
    assert policy.vision.computed == 2
    twice = policy.encode([images[0], images[0]], QUESTIONS)
    assert policy.vision.computed == 2
    half = len(twice.features) // 2
    assert torch.equal(twice.features[:half], twice.features[half:])


def test_another_tower_or_dtype_never_takes_them(folder, images, tmp_path) -> None:
    policy = opened(folder, vision_cache=str(tmp_path))
    before = policy.encode(images, QUESTIONS).features
    with torch.no_grad():
        next(policy.base.model.visual.parameters()).mul_(1.5)
    after = policy.encode(images, QUESTIONS).features
    assert policy.vision.computed == 4 and not torch.allclose(before, after)
    opened(folder, vision_cache=str(tmp_path), dtype="bfloat16").encode(images, QUESTIONS)
    assert len(list(tmp_path.iterdir())) == 3, "a folder for each tower"


def test_mixed_precision_has_features_of_its_own(folder, images, tmp_path) -> None:
    policy = opened(folder, vision_cache=str(tmp_path))
    whole = policy.encode(images, QUESTIONS).features
    with torch.autocast("cpu", torch.bfloat16):
        mixed = policy.encode(images, QUESTIONS).features
    assert policy.vision.computed == 4 and not torch.equal(whole, mixed)
    assert torch.equal(policy.encode(images, QUESTIONS).features, whole)
    assert policy.vision.computed == 4


def test_a_broken_file_is_named(folder, images, tmp_path) -> None:
    opened(folder, vision_cache=str(tmp_path)).encode(images, QUESTIONS)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"half")
    with pytest.raises(UserError, match="delete it"):
        opened(folder, vision_cache=str(tmp_path)).encode(images, QUESTIONS)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="vision_cache"):
        opened(folder, vision_cache=str(tmp_path / "file"))
