"""Every family of policies behind one interface, each with its own coordinate frame."""

import re

import pytest
import torch
from PIL import Image, ImageDraw
from tiny_policy import build_tiny_policy

from regionr1.algorithm.answers import Action, Decision
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.family import MODEL_TYPES, family_of
from regionr1.policy.logprobs import policy_pass
from regionr1.policy.rollout import boxes_from_actions

QUESTIONS = ["what?", "where is this old castle"]


@pytest.fixture(scope="module", params=sorted(MODEL_TYPES))
def policy(request, tmp_path_factory):
    folder = build_tiny_policy(tmp_path_factory.mktemp(request.param), family=request.param)
    policy = CropPolicy(str(folder), max_new_tokens=10)
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide half of the gradients
            torch.nn.init.normal_(parameter, std=0.1)
    return policy


@pytest.fixture(scope="module")
def images():
    found = []
    for width, height in ((50, 70), (130, 40)):
        image = Image.new("RGB", (width, height), "navy")
        ImageDraw.Draw(image).ellipse((5, 5, 30, 30), fill="orange")
        found.append(image)
    return found


def run(policy, rollouts, path):
    return policy_pass(
        policy.base, rollouts.prompt, policy.tokens, rollouts.completion_ids, rollouts.mask,
        temperature=0.8, path=path,
    )  # fmt: skip


def gradients(policy, rollouts, path):
    policy.zero_grad()
    result = run(policy, rollouts, path)
    (result.logp.sum() + result.log_p_full.sum()).backward()
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.requires_grad}


def pixels_of(policy, image):
    """What the image processor alone makes of an image, for the stock model."""
    processor = policy.processor.image_processor
    if policy.base.config.model_type == "internvl":
        made = processor([image], crop_to_patches=True, return_tensors="pt")
        return {"pixel_values": made["pixel_values"]}
    if policy.base.config.model_type == "smolvlm":
        return processor([[image]], return_tensors="pt")
    return processor([image], return_tensors="pt")


@pytest.mark.parametrize("path", ["two_pass", "packed"])
def test_the_fast_paths_equal_dense(policy, images, path) -> None:
    if path == "packed" and family_of(policy.base.config.model_type).deepstack:
        pytest.skip("refused: the first layers take vision features too")
    rollouts = policy.sample(images, QUESTIONS, 3)
    fast, plain = run(policy, rollouts, path), run(policy, rollouts, "dense")
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    fast_grad, plain_grad = (gradients(policy, rollouts, way) for way in (path, "dense"))
    assert len(plain_grad) == 2 * 7 * 2  # A and B of seven linears in two layers
    for name, grad in plain_grad.items():
        assert grad.abs().max() > 0 and re.search("(language|text)_model.layers", name)
        assert (fast_grad[name] - grad).norm() <= 1e-4 * grad.norm(), name


def test_log_probabilities_are_the_stock_models(policy, images) -> None:
    rollouts = policy.sample(images, QUESTIONS, 2)
    policy.eval()
    ours, prompt = run(policy, rollouts, "two_pass"), rollouts.prompt
    # As transformers opens it: what `widen` changed must not show.
    stock = type(policy.base).from_pretrained(policy.base.name_or_path).eval()
    with torch.no_grad(), policy.adapter(False):
        reference = run(policy, rollouts, "two_pass")
    for b, image in enumerate(images):
        pixels = pixels_of(policy, image)
        ids = rollouts.completion_ids[b, 0][rollouts.mask[b, 0]]
        row = torch.cat([prompt.input_ids[b][prompt.mask[b]], ids])[None]
        if "image_grid_thw" in pixels:
            types = torch.cat([prompt.mm_token_type_ids[b][prompt.mask[b]], torch.zeros_like(ids)])
            pixels["mm_token_type_ids"] = types[None]
        with torch.no_grad():
            logits = stock(input_ids=row, **pixels).logits[0]
        logits[:, policy.tokens.banned] = -torch.inf
        logp = (logits[-len(ids) - 1 : -1] / 0.8).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        torch.testing.assert_close(reference.logp[b, 0, : len(ids)], logp, atol=1e-5, rtol=0)
    assert (ours.logp - reference.logp).abs().max() > 1e-3
    policy.train()


def test_every_vision_feature_matters(policy, images) -> None:
    rollouts = policy.sample(images, QUESTIONS, 2)
    before = run(policy, rollouts, "two_pass").logp
    features = rollouts.prompt.features
    layers = features.shape[-1] // 32
    assert layers == (2 if family_of(policy.base.config.model_type).deepstack else 1)
    for layer in range(layers):
        rollouts.prompt.features = features.clone()
        rollouts.prompt.features[:, 32 * layer : 32 * (layer + 1)] = 0
        after = run(policy, rollouts, "two_pass").logp
        assert (after - before).abs().max() > 1e-4, layer
    rollouts.prompt.features = features


def test_each_family_reads_its_own_numbers(policy, images) -> None:
    seen = policy.encode(images, QUESTIONS).seen_hw
    pixels = [pixels_of(policy, image) for image in images]
    if "image_grid_thw" in pixels[0]:
        made = [part["image_grid_thw"][0, 1:] * 8 for part in pixels]
    else:
        made = [torch.tensor(part["pixel_values"].shape[-2:]) for part in pixels]
    assert torch.equal(seen, torch.stack(made))  # what the processor made, never worked out again
    assert not torch.equal(seen[0], torch.tensor([70, 50]))  # it did resize
    height, width = seen[0].tolist()
    wrote = {
        "absolute_seen": (width / 4, height / 2, width, height),
        "relative_1000": (250, 500, 1000, 1000),
    }[policy.frame.kind]
    actions = [[Action(Decision.REGION, wrote)], [Action(Decision.FULL)]]
    _, boxes = boxes_from_actions(actions, policy.frame, seen)
    torch.testing.assert_close(boxes[0, 0], torch.tensor([0.25, 0.5, 1.0, 1.0]))


def test_published_frames() -> None:
    assert {name: family_of(name).frame.kind for name in MODEL_TYPES} == {
        "qwen2_vl": "relative_1000",
        "qwen2_5_vl": "absolute_seen",
        "qwen3_vl": "relative_1000",
        "internvl": "relative_1000",
        "smolvlm": "relative_1000",
    }
