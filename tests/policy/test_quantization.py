"""A frozen language model in 4 bits."""

import pytest
import torch
from PIL import Image
from tiny_policy import build_tiny_policy
from transformers.utils import is_bitsandbytes_available
from written_policy import load_adapter

from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.logprobs import policy_pass

QUESTIONS = ["what?", "where is this old castle"]
needs_bitsandbytes = pytest.mark.skipif(
    not is_bitsandbytes_available(), reason="bitsandbytes is not installed"
)


def opened(folder, quantization):
    policy = CropPolicy(str(folder), max_new_tokens=10, quantization=quantization)
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return policy


def test_without_bitsandbytes(tmp_path, monkeypatch) -> None:
    folder = build_tiny_policy(tmp_path)
    monkeypatch.setattr("regionr1.policy.loading.is_bitsandbytes_available", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'regionr1\[quantization\]'"):
        CropPolicy(str(folder), quantization="nf4")


@needs_bitsandbytes
@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl", "smolvlm"])
def test_the_paths_agree_and_the_weights_are_those_of_nf4(family, tmp_path) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    folder = build_tiny_policy(tmp_path, family=family, wide=True)
    policy = opened(folder, "nf4")
    small = {n: m for n, m in policy.base.named_modules() if type(m) is Linear4bit}
    assert len(small) == 7 * 2  # the linears of two layers, and nothing of the tower or the head
    assert all(".self_attn." in name or ".mlp." in name for name in small)
    assert not any(isinstance(module, Linear4bit) for module in policy.base.model.visual.modules())

    images = [Image.new("RGB", (50, 70), "navy"), Image.new("RGB", (130, 40), "red")]
    rollouts = policy.sample(images, QUESTIONS, 3)  # in eval mode, before any gradient
    passes = {path: scored(policy, rollouts, path) for path in ("dense", "two_pass", "packed")}
    for logp, gradients in passes.values():
        torch.testing.assert_close(logp, passes["dense"][0], atol=1e-5, rtol=0)
        for name, gradient in passes["dense"][1].items():
            assert gradient.abs().max() > 0, name
            assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm(), name

    whole = opened(folder, "none")
    load_adapter(whole, policy.adapter_state())
    layers = dict(whole.base.named_modules())
    with torch.no_grad():
        for name, module in small.items():
            weight = dequantize_4bit(module.weight, module.weight.quant_state)
            lost = (weight - layers[name].weight).norm() / layers[name].weight.norm()
            assert 0.05 < lost < 0.15, name
            layers[name].weight.copy_(weight)
    torch.testing.assert_close(
        scored(whole, rollouts, "two_pass")[0], passes["two_pass"][0], atol=1e-5, rtol=0
    )


def scored(policy, rollouts, path):
    policy.zero_grad()
    result = policy_pass(
        policy.base, rollouts.prompt, policy.tokens, rollouts.completion_ids, rollouts.mask,
        path=path,
    )  # fmt: skip
    (result.logp.sum() + result.log_p_full.sum()).backward()
    gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.requires_grad}
    return result.logp.detach(), gradients


@needs_bitsandbytes
def test_rows_that_are_no_whole_blocks_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="q_proj has rows of 32"):
        CropPolicy(str(build_tiny_policy(tmp_path)), quantization="nf4")


@needs_bitsandbytes
def test_adapters_fit_with_and_without_quantization(tmp_path) -> None:
    folder = build_tiny_policy(tmp_path / "policy", wide=True)
    policy = opened(folder, "nf4")
    policy.save_adapter(tmp_path / "adapter")
    whole = CropPolicy(str(folder), adapter=str(tmp_path / "adapter"))
    for name, value in policy.adapter_state().items():
        assert torch.equal(whole.adapter_state()[name], value)
    load_adapter(whole, policy.adapter_state())
