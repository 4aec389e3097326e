"""CropPolicy: opening folders, sampling groups, forcing decisions, adapters."""

import json
import shutil
from contextlib import nullcontext

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_policy import build_tiny_policy, noise_images
from transformers import Qwen2_5_VLForConditionalGeneration
from written_policy import load_adapter

from regionr1.algorithm.answers import Decision
from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.logprobs import policy_pass
from regionr1.policy.rollout import boxes_from_actions, read_answers

QUESTIONS = ["what?", "who painted this, and when?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def policy(folder):
    policy = CropPolicy(str(folder), lora_rank=4, max_new_tokens=10)
    train_a_little(policy)
    return policy


@pytest.fixture(scope="module")
def images():
    return noise_images([(50, 70), (130, 40)])


def train_a_little(policy):
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_only_the_language_model_trains(policy, images):
    trainable = [n for n, p in policy.named_parameters() if p.requires_grad]
    assert trainable and all("language_model" in n and "lora_" in n for n in trainable)
    assert not any("lora_" in n for n, _ in policy.base.model.visual.named_parameters())
    rollouts = policy.sample(images, QUESTIONS, 2)
    policy.score(rollouts).logp.sum().backward()
    assert all(p.grad is None for p in policy.base.model.visual.parameters())
    assert policy.base.model.language_model.layers[0].training, "Lightning never calls train()"


def test_targets_that_match_nothing_are_refused(folder):
    with pytest.raises(UserError, match="lora_targets"):
        CropPolicy(str(folder), lora_targets="no_such_layer")
    with pytest.raises(UserError, match="lora_dropout must be at least 0 and below 1, not 1.5"):
        CropPolicy(str(folder), lora_dropout=1.5)


def test_the_vision_tower_and_the_prefill_run_once_per_query(policy, images):
    seen = {"vision": [], "language": []}
    hooks = [
        policy.base.model.visual.register_forward_pre_hook(
            lambda m, args, kwargs: seen["vision"].append(len(args[0] if args else kwargs)),
            with_kwargs=True,
        ),
        policy.base.model.language_model.register_forward_pre_hook(
            lambda m, args, kwargs: seen["language"].append(
                tuple(kwargs["inputs_embeds"].shape[:2])
            ),
            with_kwargs=True,
        ),
    ]
    rollouts = policy.sample(images, QUESTIONS, 4, generator=seeded())
    width = rollouts.prompt.mask.shape[1]
    assert len(seen["vision"]) == 1
    assert seen["language"][0] == (2, width)
    assert all(rows <= 8 and steps == 1 for rows, steps in seen["language"][1:])
    seen["language"].clear()
    policy.score(rollouts)
    policy.score(rollouts, use_adapter=False)
    assert len(seen["vision"]) == 1, "features are reused by the loss and the reference"
    # the loss goes on from the rollout's prefill; the reference, another policy, makes its own
    assert [rows for rows, _ in seen["language"]] == [8, 2, 8]
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("force_region", [False, True])
def test_greedy_equals_full_recompute(policy, images, force_region):
    rollouts = policy.greedy(images, QUESTIONS, force_region)
    policy.eval()
    start = list(policy.tokens.region) if force_region else []
    for b, (image, question) in enumerate(zip(images, QUESTIONS, strict=True)):
        prompt = policy.encode([image], [question])
        pixels = policy.processor.image_processor([image], return_tensors="pt")
        ids, written = prompt.input_ids, list(start)
        while len(written) < 10 and (not written or written[-1] not in policy.tokens.eos):
            row = torch.cat([ids, torch.tensor([written], dtype=torch.long)], dim=1)
            types = torch.zeros_like(row)
            types[:, : ids.shape[1]] = prompt.mm_token_type_ids
            with torch.no_grad():
                out = policy.base(
                    input_ids=row, mm_token_type_ids=types, use_cache=False, **pixels
                ).logits[0, -1]
            out[policy.tokens.banned] = -torch.inf
            written.append(int(out.argmax()))
        assert rollouts.completion_ids[b, 0][rollouts.mask[b, 0]].tolist() == written


def test_both_greedy_answers_of_one_prefill_are_those_of_two(policy, images):
    prompt = policy.encode(images, QUESTIONS)  # once for all, as a test does
    for use_adapter in (True, False):
        both = policy.greedy_both(prompt, use_adapter)
        for g, force_region in enumerate([False, True]):
            alone = policy.greedy(images, QUESTIONS, force_region, use_adapter)
            assert [row[g] for row in both.texts] == [row[0] for row in alone.texts]
            assert torch.equal(both.decision[:, g], alone.decision[:, 0])
            boxes = both.boxes_unit[:, g], alone.boxes_unit[:, 0]
            torch.testing.assert_close(*boxes, equal_nan=True)
            torch.testing.assert_close(both.p_full, alone.p_full)


def test_forced_decisions(policy, images):
    forced = torch.tensor([[Decision.FULL, Decision.REGION, -1], [-1, Decision.FULL, -1]])
    rollouts = policy.sample(images, QUESTIONS, 3, forced)
    for b, g in [(0, 0), (1, 1)]:
        assert rollouts.texts[b][g] == "NO_CROP_NEEDED"
        assert rollouts.decision[b, g] == Decision.FULL
        assert rollouts.forced[b, g].tolist() == rollouts.mask[b, g].tolist()
        assert rollouts.mask[b, g].sum() == len(policy.tokens.full)
    assert rollouts.texts[0][1].startswith('{"bbox_2d": [')
    assert rollouts.forced[0, 1].sum() == len(policy.tokens.region)
    assert rollouts.forced[forced == -1].sum() == 0
    with pytest.raises(ValueError, match="FULL or REGION"):
        policy.sample(images, QUESTIONS, 1, torch.full((2, 1), int(Decision.INVALID)))


def test_all_forced_full_runs_no_decode_step(policy, images):
    rollouts = policy.sample(images, QUESTIONS, 2, torch.full((2, 2), int(Decision.FULL)))
    assert (rollouts.decision == Decision.FULL).all()
    assert rollouts.completion_ids.shape[-1] == len(policy.tokens.full)


def test_banned_ids_are_never_sampled_and_ends_are_respected(policy, images):
    config, tokens = policy.base.config, policy.tokens
    vision = [config.image_token_id, config.video_token_id, config.vision_start_token_id]
    assert tokens.banned[[*vision, tokens.pad]].all() and not tokens.banned[tokens.eos].any()
    assert tokens.banned[len(policy.tokenizer) :].all(), "head rows without a token"
    with torch.no_grad():
        for token in (*vision, tokens.pad):  # as tempting as can be
            policy.base.lm_head.weight[token] *= 50
    rollouts = policy.sample(images, QUESTIONS, 16, generator=seeded())
    emitted = rollouts.completion_ids[rollouts.mask]
    assert not tokens.banned[emitted].any()
    ends = torch.isin(rollouts.completion_ids, tokens.eos) & rollouts.mask
    assert (ends.sum(-1) <= 1).all()
    unfinished = ends.sum(-1) == 0
    assert (rollouts.mask.sum(-1)[unfinished] == 10).all()


def test_train_mode_dropout_and_checkpointing_do_not_change_sampling(folder, images):
    plain = CropPolicy(str(folder), max_new_tokens=10)
    train_a_little(plain)
    noisy = CropPolicy(
        str(folder),
        max_new_tokens=10,
        lora_dropout=0.5,
        gradient_checkpointing=True,
        logprob_path="dense",
    )
    load_adapter(noisy, plain.adapter_state())
    expected = plain.eval().sample(images, QUESTIONS, 8, generator=seeded())
    before = {name: module.training for name, module in noisy.named_modules()}
    assert before["vlm"] and not before["vlm.base_model.model.model.visual"]
    actual = noisy.sample(images, QUESTIONS, 8, generator=seeded())
    assert torch.equal(expected.completion_ids, actual.completion_ids)
    torch.testing.assert_close(expected.p_full, actual.p_full)
    assert {name: module.training for name, module in noisy.named_modules()} == before
    with pytest.raises(UserError):
        noisy.sample(images, ["<|image_pad|>", "q"], 2)
    assert {name: module.training for name, module in noisy.named_modules()} == before


def test_sampling_follows_the_policy(policy, images):
    """First tokens drawn many times match their probabilities."""
    rollouts = policy.sample(images[:1], QUESTIONS[:1], 2000, generator=seeded())
    drawn = (rollouts.completion_ids[0, :, 0] == policy.tokens.full[0]).double().mean()
    p = float(rollouts.p_full[0])
    assert abs(drawn - p) < 5 * (p * (1 - p) / 2000) ** 0.5 + 1e-3


def test_adapter_off_is_the_base_model_exactly(policy, folder, images):
    with torch.no_grad():
        rollouts = policy.sample(images, QUESTIONS, 2, generator=seeded())
        stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
        off = policy.score(rollouts, use_adapter=False).logp
        on = policy.score(rollouts).logp
        base = policy_pass(
            stock, rollouts.prompt, policy.tokens, rollouts.completion_ids, rollouts.mask
        ).logp
    assert torch.equal(off, base)
    assert not torch.equal(on, base)


def test_plain_peft_reads_the_adapter(policy, folder, images, tmp_path):
    policy.save_adapter(tmp_path / "adapter")
    assert not list((tmp_path / "adapter").glob("*.bin"))
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    plain = PeftModel.from_pretrained(stock, tmp_path / "adapter")
    prompt = policy.encode(images, QUESTIONS)
    policy.eval()
    with torch.no_grad():
        inputs = dict(
            inputs_embeds=prompt.embeddings(policy.base),
            attention_mask=prompt.mask,
            position_ids=prompt.position_ids,
        )
        assert torch.equal(plain(**inputs).logits, policy.base(**inputs).logits)
    again = CropPolicy(str(folder), adapter=str(tmp_path / "adapter"), max_new_tokens=10)
    assert set(again.adapter_state()) == set(policy.adapter_state())
    a, b = policy.greedy(images, QUESTIONS), again.greedy(images, QUESTIONS)
    assert a.texts == b.texts
    assert any(p.requires_grad for p in again.parameters())
    with pytest.raises(UserError, match="adapter_config.json"):
        CropPolicy(str(folder), adapter=str(tmp_path))


def test_boxes_use_the_frame_the_model_saw(policy, images):
    prompt = policy.encode(images, QUESTIONS)
    assert (prompt.seen_hw % 16 == 0).all()
    assert prompt.seen_hw.tolist() == (prompt.image_grid_thw[:, 1:] * 8).tolist()
    height, width = prompt.seen_hw[1].tolist()
    answers = [["NO_CROP_NEEDED", "hm"], [f'{{"bbox_2d": [0, 0, {width}, {height}]}}', "?"]]
    ids = [[policy.tokenizer(text)["input_ids"] for text in row] for row in answers]
    longest = max(len(row) for pair in ids for row in pair)
    padded = torch.tensor(
        [[row + [policy.tokens.pad] * (longest - len(row)) for row in pair] for pair in ids]
    )
    texts, actions = read_answers(policy.tokenizer, padded, padded != policy.tokens.pad)
    assert texts == answers
    decision, boxes = boxes_from_actions(actions, policy.frame, prompt.seen_hw)
    assert decision.tolist() == [[Decision.FULL, Decision.INVALID], [Decision.REGION, 2]]
    assert boxes[1, 0].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert boxes[0].isnan().all() and boxes[1, 1].isnan().all()


def test_stages_are_announced(policy, images):
    heard = []
    policy.stage = lambda name: heard.append(name) or nullcontext()
    policy.score(policy.sample(images, QUESTIONS, 2))
    assert heard == ["processor", "vision", "prefill", "decode", "logprobs"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"prompt": "no placeholder"}, "question"),
        ({"max_new_tokens": 1}, "max_new_tokens"),
        ({"lora_rank": 0}, "lora_rank"),
        ({"revision": "abc"}, "no revision"),
    ],
)
def test_bad_settings(folder, settings, message):
    with pytest.raises(UserError, match=message):
        CropPolicy(str(folder), **settings)


def test_bad_folders(folder, tmp_path):
    with pytest.raises(UserError, match="no such model folder"):
        CropPolicy(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="pinned revision"):
        CropPolicy("someone/some-model")
    with pytest.raises(UserError, match="config"):
        CropPolicy(str(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="'gpt2' is not supported"):
        CropPolicy(str(other))
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        CropPolicy(str(pickled))
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="safetensors"):
        CropPolicy(str(broken))


def test_missing_weights_are_not_filled_with_noise(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "gap")
    path = tmp_path / "gap" / "model.safetensors"
    weights = load_file(path)
    weights.popitem()
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="missing"):
        CropPolicy(str(tmp_path / "gap"))
