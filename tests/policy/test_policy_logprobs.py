"""The three log-probability paths, the stock model and the decode loop all agree."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tiny_policy import build_tiny_policy, noise_images
from written_policy import load_adapter

from regionr1.algorithm.answers import Decision
from regionr1.errors import UserError
from regionr1.policy import logprobs
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.logprobs import policy_pass

SIZES = [(50, 70), (130, 40), (33, 33)]
QUESTIONS = ["what?", "where is this old castle", "who painted it, and when?"]


@pytest.fixture(scope="module", params=["one token each", "shared letters"])
def policy(request, tmp_path_factory):
    """A policy whose answers are single tokens, or begin with the same pieces."""
    folder = tmp_path_factory.mktemp("policy")
    if request.param == "one token each":
        policy = CropPolicy(str(build_tiny_policy(folder)), max_new_tokens=12)
    else:
        # spelled letter by letter; the decision is then moved behind a shared start
        policy = CropPolicy(str(build_tiny_policy(folder, pieces=())), max_new_tokens=24)
        full, region = policy.tokens.full, policy.tokens.region
        object.__setattr__(policy.tokens, "full", (*region[:3], *full))
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide half of the gradients
            torch.nn.init.normal_(parameter, std=0.1)
    return policy


@pytest.fixture(scope="module")
def images():
    return noise_images(SIZES)


def run(policy, rollouts, path):
    return policy_pass(
        policy.base,
        rollouts.prompt,
        policy.tokens,
        rollouts.completion_ids,
        rollouts.mask,
        temperature=0.8,
        path=path,
    )


def gradients(policy, rollouts, path):
    policy.zero_grad()
    result = run(policy, rollouts, path)
    weight = torch.linspace(-1, 1, result.logp.numel()).view_as(result.logp)
    ((result.logp * weight).sum() + result.log_p_full.sum() - result.log_p_region.sum()).backward()
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("path", ["two_pass", "packed"])
@pytest.mark.parametrize("group", [1, 2, 8])
def test_fast_paths_equal_dense_in_values_and_every_gradient(policy, images, group, path):
    forced = torch.full((3, group), -1)
    forced[0, 0] = Decision.FULL
    forced[1, 0] = Decision.REGION
    rollouts = policy.sample(images, QUESTIONS, group, forced)
    assert rollouts.mask.sum(-1).unique().numel() > 1, "the completions must be ragged"
    fast, plain = run(policy, rollouts, path), run(policy, rollouts, "dense")
    for name, a, b in zip(fast._fields, fast, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0, msg=name)
    fast_grad = gradients(policy, rollouts, path)
    plain_grad = gradients(policy, rollouts, "dense")
    assert len(fast_grad) == 2 * 7 * 2  # A and B of seven linears in two layers
    for name, grad in plain_grad.items():
        assert grad.abs().max() > 0, name
        assert (fast_grad[name] - grad).norm() <= 1e-5 * grad.norm(), name


def test_both_equal_the_stock_model_on_unpadded_rows(policy, images):
    rollouts = policy.sample(images, QUESTIONS, 2)
    policy.eval()
    fast = run(policy, rollouts, "two_pass")
    prompt = rollouts.prompt
    for b, image in enumerate(images):
        pixels = policy.processor.image_processor([image], return_tensors="pt")
        keep = prompt.mask[b]
        for g in range(2):
            ids = rollouts.completion_ids[b, g][rollouts.mask[b, g]]
            row = torch.cat([prompt.input_ids[b][keep], ids])[None]
            types = torch.cat([prompt.mm_token_type_ids[b][keep], torch.zeros_like(ids)])[None]
            with torch.no_grad():
                logits = policy.base(input_ids=row, mm_token_type_ids=types, **pixels).logits[0]
            logits[:, policy.tokens.banned] = -torch.inf
            logp = (logits[-len(ids) - 1 : -1] / 0.8).log_softmax(-1)
            stock = logp.gather(-1, ids[:, None])[:, 0]
            torch.testing.assert_close(fast.logp[b, g, : len(ids)], stock, atol=1e-5, rtol=0)
    policy.train()


def test_log_p_full_is_the_product_up_to_the_diverging_token(policy, images):
    forced = torch.tensor([[Decision.FULL, Decision.REGION]] * 3)
    rollouts = policy.sample(images, QUESTIONS, 2, forced)
    result = run(policy, rollouts, "dense")
    upto = len(policy.tokens.shared) + 1
    at_one = policy_pass(
        policy.base, rollouts.prompt, policy.tokens, rollouts.completion_ids, rollouts.mask, 1.0
    ).logp[..., :upto]
    torch.testing.assert_close(result.log_p_full, at_one[:, 0].sum(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.log_p_region, at_one[:, 1].sum(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(rollouts.p_full, result.log_p_full.exp(), atol=1e-6, rtol=1e-5)
    again = policy.p_full(images, QUESTIONS)
    torch.testing.assert_close(rollouts.p_full, again, atol=1e-6, rtol=1e-5)


def test_a_reference_pass_in_between_leaves_the_gradients_alone(policy, images):
    rollouts = policy.sample(images, QUESTIONS, 2)
    alone = gradients(policy, rollouts, "two_pass")
    policy.zero_grad()
    result = run(policy, rollouts, "two_pass")
    with torch.no_grad():
        reference = policy.score(rollouts, use_adapter=False).logp
    assert (reference - result.logp).abs().max() > 1e-3
    weight = torch.linspace(-1, 1, result.logp.numel()).view_as(result.logp)
    ((result.logp * weight).sum() + result.log_p_full.sum() - result.log_p_region.sum()).backward()
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, alone[name]), name


def test_gradient_checkpointing_is_for_packed_and_dense(tmp_path, images):
    folder = str(build_tiny_policy(tmp_path))
    with pytest.raises(UserError, match="logprob_path=packed"):
        CropPolicy(folder, gradient_checkpointing=True)
    policy = CropPolicy(folder, gradient_checkpointing=True, logprob_path="packed")
    rollouts = policy.sample(images, QUESTIONS, 2)
    with pytest.raises(UserError, match="drops"):
        run(policy, rollouts, "two_pass")
    plain = CropPolicy(folder)
    load_adapter(plain, policy.adapter_state())
    expected = gradients(plain, rollouts, "two_pass")
    for path in ("packed", "dense"):
        recomputed = []
        layer = policy.base.model.language_model.layers[0]
        hook = layer.self_attn.register_forward_pre_hook(
            lambda *_, calls=recomputed: calls.append(1)
        )
        checkpointed = gradients(policy, rollouts, path)
        hook.remove()
        assert len(recomputed) > 1, "checkpointing must be at work"
        for name, grad in expected.items():
            assert (checkpointed[name] - grad).norm() <= 1e-5 * grad.norm(), name


def test_packed_rows_hold_each_prompt_once_and_no_padding(policy, images):
    rollouts = policy.sample(images, QUESTIONS, 8, torch.full((3, 8), int(Decision.REGION)))
    seen = []
    hook = policy.base.model.language_model.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    run(policy, rollouts, "packed")
    hook.remove()
    tokens = (rollouts.mask.sum(-1) - 1).sum(1).max() + len(policy.tokens.shared)
    assert seen == [(3, rollouts.prompt.mask.shape[1] + int(tokens))]


def test_packed_under_eager_attention(policy, images):
    rollouts = policy.sample(images, QUESTIONS, 2)
    with torch.no_grad():
        expected = run(policy, rollouts, "dense")
        policy.base.set_attn_implementation({"text_config": "eager"})
        found = run(policy, rollouts, "packed")
        policy.base.set_attn_implementation({"text_config": "sdpa"})
    torch.testing.assert_close(found.logp, expected.logp, atol=1e-5, rtol=0)


def test_an_attention_without_masks_is_refused(policy, images, monkeypatch):
    rollouts = policy.sample(images, QUESTIONS, 2)
    text = policy.base.config.get_text_config()
    monkeypatch.setattr(text, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(UserError, match="sdpa"):
        run(policy, rollouts, "packed")


@pytest.mark.parametrize("path", ["two_pass", "packed"])
def test_the_self_check_runs_once_and_catches_a_wrong_path(tmp_path, images, path, monkeypatch):
    policy = CropPolicy(
        str(build_tiny_policy(tmp_path)), lora_dropout=0.5, logprob_path=path, self_check=True
    )
    torch.manual_seed(1)
    rollouts = policy.sample(images, QUESTIONS, 2)
    heard = []
    policy.stage = lambda name: heard.append(name) or nullcontext()
    policy.score(rollouts)
    policy.score(rollouts)
    assert heard == ["self-check", "logprobs", "logprobs"]

    right = {name: getattr(logprobs, f"_{name}") for name in ("two_pass", "packed")}
    off = CropPolicy(str(tmp_path), logprob_path=path, self_check=True)

    def wrong(model, prompt, *args):
        prompt = replace(prompt, next_position=prompt.next_position + 1)  # as stale deltas do
        return right[path](model, prompt, *args)

    monkeypatch.setattr(logprobs, f"_{path}", wrong)
    with pytest.raises(UserError, match=f"logprob_path={path} differs"):
        off.score(rollouts)


def test_no_mask_no_nan_with_left_padding(policy, images):
    rollouts = policy.sample(images, QUESTIONS, 2)
    assert not rollouts.prompt.mask.all(), "the batch must be padded"
    result = run(policy, rollouts, "two_pass")
    assert result.logp.isfinite().all() and (result.logp[~rollouts.mask] == 0).all()
    assert (result.entropy[rollouts.mask] > 0).all()
