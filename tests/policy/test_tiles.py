"""InternVL and SmolVLM: tiles, what their processors return, and the names of their weights."""

import pytest
import torch
from peft import PeftModel
from PIL import Image, ImageDraw
from tiny_policy import build_tiny_policy

from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.family import family_of
from regionr1.policy.prompt import process
from regionr1.policy.tile_models import tiled_inputs

QUESTIONS = ["what?", "where is this old castle", "who"]
TILES = {"internvl": [3, 4, 1], "smolvlm": [5, 3, 5]}  # SmolVLM enlarges small images


@pytest.fixture(scope="module", params=sorted(TILES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return build_tiny_policy(tmp_path_factory.mktemp(family), family=family)


@pytest.fixture(scope="module")
def policy(folder):
    policy = CropPolicy(str(folder), max_new_tokens=10)
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return policy


@pytest.fixture(scope="module")
def images():
    found = []
    for width, height in ((50, 70), (130, 40), (16, 16)):
        image = Image.new("RGB", (width, height), "navy")
        ImageDraw.Draw(image).ellipse((3, 3, 12, 12), fill="orange")
        found.append(image)
    return found


def test_a_batch_holds_images_of_several_tiles_and_of_one(policy, images, family) -> None:
    prompt = policy.encode(images, QUESTIONS)
    assert prompt.image_grid_thw.tolist() == [[tiles, 1, 1] for tiles in TILES[family]]
    assert prompt.image_mask.sum(-1).tolist() == [4 * tiles for tiles in TILES[family]]
    assert prompt.seen_hw.tolist() == [[16, 16]] * 3, "the tile that shows the whole image"
    alone = [policy.encode([i], [q]) for i, q in zip(images, QUESTIONS, strict=True)]
    torch.testing.assert_close(prompt.features, torch.cat([one.features for one in alone]))
    for row, one in enumerate(alone):  # plain text positions, padding left out
        positions = prompt.position_ids[:, row][:, prompt.mask[row]]
        assert torch.equal(positions, torch.arange(one.mask.shape[1]).expand(3, -1))
        assert prompt.next_position[row] == one.mask.shape[1]


def test_the_text_around_the_tiles_is_the_familys(policy, images, family) -> None:
    inputs = process(policy.processor, images, QUESTIONS, "{question}")
    texts = [policy.tokenizer.decode(row) for row in inputs["input_ids"]]
    if family == "internvl":
        assert f"<img>{'<IMG_CONTEXT>' * 12}</img>\nwhat?" in texts[0]
    else:
        whole = f"\n\n<fake_token_around_image><global-img>{'<image>' * 4}<fake_token_around_image>"
        assert f"<fake_token_around_image><row_1_col_2>{'<image>' * 4}{whole}where" in texts[1]


def test_smolvlm_without_splitting(tmp_path, images) -> None:
    folder = build_tiny_policy(tmp_path, family="smolvlm")
    policy = CropPolicy(str(folder))
    policy.processor.image_processor.do_image_splitting = False
    assert policy.encode(images, QUESTIONS).image_grid_thw[:, 0].tolist() == [1, 1, 1]


def test_an_adapter_opens_in_stock_transformers(policy, images, folder, family, tmp_path) -> None:
    policy.save_adapter(tmp_path)
    base = family_of(family).model_class.from_pretrained(folder)
    stock = PeftModel.from_pretrained(base, tmp_path).eval()
    rollouts = policy.eval().greedy(images[:1], QUESTIONS[:1])
    image_processor = policy.processor.image_processor
    if family == "internvl":
        pixels = image_processor(images[:1], crop_to_patches=True, return_tensors="pt")
        pixels = {"pixel_values": pixels["pixel_values"]}
    else:
        pixels = image_processor([images[:1]], return_tensors="pt")
    with torch.no_grad():
        logits = stock(input_ids=rollouts.prompt.input_ids, **pixels).logits[0, -1]
    logits[policy.tokens.banned] = -torch.inf
    ours = policy.score(rollouts).logp[0, 0, 0]
    first = rollouts.completion_ids[0, 0, 0]
    torch.testing.assert_close(ours, logits.log_softmax(-1)[first], atol=1e-5, rtol=0)
    policy.train()


def test_the_tower_stays_in_eval_and_runs_once_per_image(policy, images) -> None:
    policy.train()
    tower = policy.base.model.visual
    assert not any(module.training for module in tower.modules())
    assert policy.base.model.language_model.training
    runs, computed = [], policy.vision.computed
    hook = tower.register_forward_pre_hook(lambda module, args: runs.append(len(args[0])))
    policy.vision.last = {}
    rollouts = policy.sample(images, QUESTIONS, 2)
    policy.score(rollouts).logp.sum().backward()
    hook.remove()
    assert runs == [rollouts.prompt.image_grid_thw[:, 0].sum()]
    assert policy.vision.computed - computed == 3
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_features_on_disk(folder, images, tmp_path) -> None:
    first = CropPolicy(str(folder), vision_cache=str(tmp_path))
    second = CropPolicy(str(folder), vision_cache=str(tmp_path))
    before = first.encode(images, QUESTIONS).features
    assert torch.equal(second.encode(images, QUESTIONS).features, before)
    assert (first.vision.computed, second.vision.computed) == (3, 0)
    # what comes after the encoder belongs to the features too
    projection = list(second.base.model.visual.parameters())[-1]
    with torch.no_grad():
        projection.add_(1)
    assert not torch.equal(second.encode(images, QUESTIONS).features, before)


def test_grammar_and_gradient_checkpointing(folder, images) -> None:
    policy = CropPolicy(
        str(folder),
        max_new_tokens=40,
        grammar=True,
        logprob_path="packed",
        gradient_checkpointing=True,
        self_check=True,  # against `dense`, gradients included
    )
    rollouts = policy.sample(images, QUESTIONS, 2)
    policy.score(rollouts).logp.sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in policy.parameters())


def test_sliding_attention_is_refused(tmp_path) -> None:
    folder = build_tiny_policy(tmp_path, family="internvl")
    config = folder / "config.json"
    text = config.read_text()
    assert '"full_attention"' in text
    config.write_text(text.replace('"full_attention"', '"sliding_attention"', 1))
    with pytest.raises(UserError, match="sliding_attention"):
        CropPolicy(str(folder))


def test_tiles_and_image_tokens_must_fit() -> None:
    inputs = {
        "input_ids": torch.tensor([[9, 9, 1, 1], [9, 9, 9, 9]]),
        "attention_mask": torch.ones(2, 4),
    }
    pixels = torch.ones(3, 3, 16, 16)
    made = tiled_inputs({**inputs, "pixel_values": pixels}, 9)
    assert made["image_grid_thw"].tolist() == [[1, 1, 1], [2, 1, 1]]
    with pytest.raises(UserError, match=r"\[2, 4\] image tokens for 2 tiles"):
        tiled_inputs({**inputs, "pixel_values": pixels[:2]}, 9)
    with pytest.raises(UserError, match="lacks the image token"):
        tiled_inputs({**inputs, "pixel_values": pixels}, 8)
    mask = torch.zeros(2, 2, 16, 16)
    mask[0, 0], mask[1] = 1, 1
    padded = {"pixel_values": torch.ones(2, 2, 3, 16, 16), "pixel_attention_mask": mask}
    made = tiled_inputs({**inputs, **padded}, 9)
    assert made["image_grid_thw"].tolist() == [[1, 1, 1], [2, 1, 1]]
    mask[1, 1, 8:] = 0
    with pytest.raises(UserError, match="padded a tile"):
        tiled_inputs({**inputs, **padded}, 9)
