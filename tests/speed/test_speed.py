"""The benchmark: what the two ways run, that they are told apart, and that its command works."""

import argparse
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from transformers import Qwen2_5_VLForConditionalGeneration

from regionr1.algorithm.objective import Objective
from regionr1.builtin.policy_model import SPECIAL
from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.scorers.reranker import RewardReranker
from regionr1.speed.floor import step_floor
from regionr1.speed.measure import Cost, measure, total
from regionr1.speed.report import _variations
from regionr1.speed.shapes import SHAPES, build_shape, shape_config
from regionr1.speed.steps import Stepper
from regionr1.speed.trl_step import TrlStep
from regionr1.speed.work import make_work

B, G, K = 2, 4, 5
KL = Objective(decision="exact", kl_weight=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shape")
    torch.manual_seed(0)
    build_shape(folder, SHAPES["tiny"])
    return folder


@pytest.fixture(scope="module")
def policy(folder) -> CropPolicy:
    return CropPolicy(str(folder), max_new_tokens=40, grammar=True)


def cost_of(policy: CropPolicy, way: str, group: int = G, candidates: int = K) -> Cost:
    reranker, cost = RewardReranker("pixels"), Cost()
    reranker.remember = 0
    work = make_work(B, 112, 20, candidates, reranker.scorer.dim, 27)
    step = getattr(Stepper(policy, reranker, work, group, KL), way)
    measure(step, policy, reranker, cost)
    return cost


def test_ours_runs_distinct_work_only(policy) -> None:
    seen = {group: cost_of(policy, "ours", group).passed for group in (2, 8)}
    for group, passed in seen.items():
        assert passed["images through the vision tower"] == B
        assert 1 <= passed["images through the scorer"] <= B * group, "distinct crops at most"
    assert cost_of(policy, "ours", G, 50).passed["images through the scorer"] <= B * G
    growth = (
        seen[8]["tokens through the language model"] / seen[2]["tokens through the language model"]
    )
    assert growth < 4, "the prompts are not repeated"


def test_dense_repeats_everything(policy) -> None:
    passed = cost_of(policy, "dense").passed
    assert passed["images through the vision tower"] == 3 * B * G  # generation, loss, reference
    assert passed["images through the scorer"] == B * G * 2 * (1 + K)
    ours = cost_of(policy, "ours").passed
    prompt = policy.encode(make_work(B, 112, 20, K, 8, 27).batch.images, ["a" * 20] * B).mask
    # P and T - 1 in generation, P + T in the reference and in the loss pass; nothing a second time
    tokens = B * G * (3 * prompt.shape[1] + 3 * 27 - 1)
    assert passed["tokens through the language model"] == tokens
    assert passed["passes of the language model"] > ours["passes of the language model"] + 10


def test_trl_takes_the_same_step(policy, folder) -> None:
    pytest.importorskip("trl", reason="comes with the extra `trl`")
    work, cost = make_work(B, 112, 20, K, 8, 27), Cost()
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    step = TrlStep(folder, policy, work, G, kl_weight=0.1)
    measure(step, policy, None, cost, step.base)
    dense = cost_of(policy, "dense").passed
    for what in ("images through the vision tower", "tokens through the language model"):
        assert cost.passed[what] == dense[what], what
    assert {"generation", "reference", "logprobs", "backward"} <= set(cost.seconds)
    assert step.gap() < 1e-5
    for name, parameter in policy.named_parameters():  # shared, and left as they were
        assert torch.equal(parameter, before[name]), name
    with torch.no_grad():
        next(p for n, p in policy.named_parameters() if "lora_B" in n).add_(0.01)
    assert step.gap() < 1e-5, "one set of weights"


def test_without_trl_the_error_names_the_extra(policy, folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(UserError, match="scripts/install trl"):
        TrlStep(folder, policy, make_work(B, 112, 20, K, 8, 27), G, 0.1)


def test_costs_add_up() -> None:
    def one(s: float, peak: int) -> Cost:
        return Cost(1, {"decode": s}, s, s / 2, 3, Counter(images=2), peak)

    whole = total([one(1.0, 9), one(3.0, 5)])
    assert (whole.steps, whole.step_s, whole.processor_s) == (2, 2.0, 3.0)
    assert (whole.passed["images"], whole.page_faults, whole.peak_bytes) == (4, 6, 9)


def test_costs_are_booked_once(policy) -> None:
    cost = cost_of(policy, "ours")
    # A process that has kept memory may meet no page fault in a step.
    assert 0 < cost.processor_s and 0 <= cost.system_s and 0 <= cost.page_faults
    assert {"vision", "prefill", "decode", "reference", "backward", "crop + encode"} <= set(
        cost.seconds
    )
    assert cost.steps == 1 and 0 < cost.step_s < 60
    assert not policy.base.model.visual._forward_pre_hooks


def test_the_two_ways_compute_the_same(policy) -> None:
    work = make_work(B, 112, 20, K, 8, 27)
    loss, gradients = Stepper(policy, None, work, G, KL).gap()
    assert loss < 1e-5 and gradients < 1e-5


def test_floors_by_hand(policy) -> None:
    language = sum(p.numel() for p in policy.base.model.language_model.layers.parameters())
    head = policy.base.lm_head.weight.numel()
    tower = sum(p.numel() for p in policy.base.model.visual.parameters())
    ours = step_floor(policy, 1, 2, 100, 9, 10, 5, repeated=False, kl=False)
    # forward and backward over prompt and completions, and the rollout's own completions
    assert ours.flop == 2 * (language * (2 * 120 + 20) + head * 20 * 3 + tower * 36)
    assert ours.bytes == (language + head) * 4 * (1 + 5 + 2)
    dense = step_floor(policy, 1, 2, 100, 9, 10, 10, repeated=True, kl=False)
    assert dense.flop == 2 * (language * 3 * 220 + head * 20 * 3 + tower * 36 * 2 * 2)
    assert dense.seconds(1e9, 1e12) == dense.flop / 1e9


def test_shapes_are_as_large_as_promised() -> None:
    sizes = {}
    for name in ("medium", "3b"):
        with torch.device("meta"):  # sizes without memory
            model = Qwen2_5_VLForConditionalGeneration(shape_config(SHAPES[name], [*SPECIAL].index))
        sizes[name] = sum(p.numel() for p in model.parameters())
    assert sizes["medium"] >= 20e6
    assert sizes["3b"] == pytest.approx(3.755e9, rel=1e-3)  # Qwen2.5-VL-3B-Instruct


def test_growth_varies_one_option_at_a_time() -> None:
    args = argparse.Namespace(group=8, candidates=20, grow=["group=2,64", "candidates=200"])
    found = [(a.group, a.candidates) for a in _variations(args)]
    assert found == [(2, 20), (64, 20), (8, 200)]
    for wrong in ("colour=3", "group=", "group=two", "group=0"):
        with pytest.raises(UserError, match="NAME=N,N"):
            list(_variations(argparse.Namespace(grow=[wrong])))


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--inference",), ("--reward", "scorer", "--no-grammar")])
def test_the_command(options) -> None:
    small = ("--shape", "tiny", "--image", "56", "--text", "5", "--group", "2", "--queries", "1")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "benchmark", *small, "--candidates", "3", *options],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = r"256 tokens .* x lists" if "--inference" in options else r"dense / ours: \d+\.\d"
    assert re.search(said, done.stdout)
    by_batch = re.findall(r"^\| (\d) +\|(?: +[\d.,]+ \|){4}$", done.stdout, re.MULTILINE)
    assert by_batch == (["1", "2", "4", "8"] if "--inference" in options else [])
