"""`compile_decode`: the same answers from a compiled language model."""

import copy
import shutil

import pytest
import torch
from tiny_policy import build_tiny_policy, noise_images
from written_policy import move_adapter

from regionr1.policy.crop_policy import CropPolicy
from regionr1.speed.measure import Cost, measure

QUESTIONS = ["what?", "who painted this, and when?"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("g++") or shutil.which("clang++")),
        reason="torch.compile needs a compiler",
    ),
]


@pytest.mark.parametrize("options", [{"grammar": True}, {"reasoning_tokens": 6}])
def test_compiled_answers_are_the_plain_ones(tmp_path, options) -> None:
    folder, images = build_tiny_policy(tmp_path), noise_images([(64, 64), (96, 64)])
    policy = CropPolicy(str(folder), max_new_tokens=40, compile_decode=True, **options)
    move_adapter(policy)

    def same(policy: CropPolicy) -> torch.Tensor:
        found = {}
        for compiled in (False, True):
            policy.compile_decode = compiled
            draws = torch.Generator().manual_seed(3)
            rollouts = policy.sample(images, QUESTIONS, 3, generator=draws)
            found[compiled] = rollouts.completion_ids
            assert policy.greedy(images, QUESTIONS, use_adapter=False).prefix is None
        assert torch.equal(found[True], found[False])
        return found[True]

    first = same(policy)
    measured = {}
    for compiled in (False, True):
        policy.compile_decode = compiled
        cost = Cost()
        measure(lambda: policy.greedy(images, QUESTIONS, force_region=True), policy, None, cost)
        measured[compiled] = cost.passed
    assert measured[True] == measured[False] and measured[True]["passes of the language model"] > 1
    other = copy.deepcopy(policy)  # decodes with its own weights, not with those it was copied from
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    assert not torch.equal(same(other), first)
