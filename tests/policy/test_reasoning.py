"""Reasoning before the answer: written once per query, and a part of the prompt from there on."""

import json

import pytest
import torch
from PIL import Image
from tiny_policy import build_tiny_policy, noise_images
from written_policy import OneBatch, colour_batch, module, move_adapter, trainer

from regionr1.algorithm.answers import Decision
from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.family import MODEL_TYPES, family_of
from regionr1.policy.reasoning import CLOSE, OPEN

QUESTIONS = ["what?", "who painted this, and when?", "where is it?"]
MOST = 9


@pytest.fixture(scope="module", params=sorted(MODEL_TYPES))
def folder(request, tmp_path_factory) -> str:
    return str(build_tiny_policy(tmp_path_factory.mktemp("policy"), family=request.param))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return noise_images([(50, 70), (130, 40), (33, 33)])


def opened(folder: str, **options) -> CropPolicy:
    torch.manual_seed(0)
    settings = {"max_new_tokens": 40, "reasoning_tokens": MOST} | options
    policy = CropPolicy(folder, **settings)
    move_adapter(policy)
    return policy


def text_of(policy: CropPolicy, rollouts) -> list[str]:
    rows = zip(rollouts.prompt.input_ids, rollouts.prompt.mask, strict=True)
    return [policy.tokenizer.decode(ids[mask]) for ids, mask in rows]


def test_it_stands_at_the_end_of_the_prompt_once_per_query(folder, images) -> None:
    policy = opened(folder)
    plain = text_of(policy, opened(folder, reasoning_tokens=0).greedy(images, QUESTIONS))
    rollouts = policy.sample(images, QUESTIONS, 4, generator=torch.Generator().manual_seed(3))
    assert len(rollouts.reasoning) == 3 and len(set(rollouts.reasoning)) == 3
    rows = zip(plain, text_of(policy, rollouts), rollouts.reasoning, strict=True)
    for before, text, reasoning in rows:
        assert text == f"{before}{OPEN}{reasoning}{CLOSE}"
        assert 0 < len(reasoning) and CLOSE not in reasoning
    assert rollouts.completion_ids.shape[:2] == (3, 4)


@pytest.mark.parametrize("grammar", [False, True])
def test_answers_are_those_of_a_prompt_that_ends_so(folder, images, grammar) -> None:
    """Decision, greedy answers and log-probabilities, each query alone and without the engine."""
    policy = opened(folder, grammar=grammar)
    together = policy.greedy(images, QUESTIONS)
    scored, compared = policy.score(together).logp, 0
    for i, reasoning in enumerate(together.reasoning):
        suffix = OPEN + reasoning + CLOSE
        alone = opened(folder, grammar=grammar, reasoning_tokens=0)
        template = alone.processor.chat_template
        # right after the generation prompt
        alone.processor.chat_template = template + "{{ " + json.dumps(suffix) + " }}"
        one = alone.greedy(images[i : i + 1], QUESTIONS[i : i + 1])
        read = together.prompt.input_ids[i][together.prompt.mask[i]]
        if one.prompt.input_ids[0].tolist() != read.tolist():
            continue  # a random text may read back as other tokens
        compared += 1
        assert one.texts[0] == together.texts[i]
        torch.testing.assert_close(one.p_full[0], together.p_full[i], atol=1e-6, rtol=1e-5)
        length = int(one.mask.sum())
        expected = alone.score(one).logp[0, 0, :length]
        torch.testing.assert_close(scored[i, 0, :length], expected, atol=1e-5, rtol=0)
    assert compared


def test_the_group_branches_at_the_decision(folder, images) -> None:
    policy = opened(folder)
    forced = torch.tensor([[Decision.FULL, Decision.REGION, -1]] * 3)
    rollouts = policy.sample(images, QUESTIONS, 3, forced)
    assert (rollouts.decision[:, 0] == Decision.FULL).all()
    assert all(row[1].startswith('{"bbox_2d": [') for row in rollouts.texts)
    before = policy.score(rollouts).logp[:, 0, 0]
    again = policy.score(rollouts).log_p_full
    torch.testing.assert_close(rollouts.p_full, again.exp().detach(), atol=1e-6, rtol=1e-5)
    assert before.shape == (3,)


@pytest.mark.parametrize("path", ["packed", "two_pass"])
def test_fast_paths_equal_dense(folder, images, path) -> None:
    policy = opened(folder)
    rollouts = policy.sample(images, QUESTIONS, 3)
    if path == "packed" and family_of(policy.base.config.model_type).deepstack:
        pytest.skip("refused: the first layers take vision features too")
    gradients = {}
    for way in (path, "dense"):
        policy.zero_grad()
        result = policy._pass(rollouts, way)
        (result.logp.square().sum() + result.log_p_full.sum()).backward()
        gradients[way] = {
            n: p.grad.clone() for n, p in policy.named_parameters() if p.requires_grad
        }
    for name, grad in gradients["dense"].items():
        assert (gradients[path][name] - grad).norm() <= 2e-5 * grad.norm(), name


def test_it_stops_where_it_closes(folder, images, monkeypatch) -> None:
    """A policy that always writes the letters of `</think>` stops there, before its limit."""
    policy = opened(folder, reasoning_tokens=30)
    letters = policy.tokenizer("ab" + CLOSE, add_special_tokens=False)["input_ids"]
    assert len(letters) == 2 + len(CLOSE), "letter by letter"
    steps = iter([*letters, *letters])
    from regionr1.policy import decode

    pick = decode._pick
    monkeypatch.setattr(decode, "_pick", lambda logits, *_: torch.full((len(logits),), next(steps)))
    with policy.adapter(True), torch.no_grad():
        policy.eval()
        _, reasoning = policy._reason(policy.encode(images, QUESTIONS), None, None)
    assert reasoning == ["ab"] * 3
    assert len(list(steps)) == len(letters)
    monkeypatch.setattr(decode, "_pick", pick)


@pytest.mark.parametrize("decision", ["balanced", "exact"])
def test_training_with_the_decision_after_it(folder, decision) -> None:
    policy = opened(folder, grammar=True)
    before = {name: value.clone() for name, value in policy.adapter_state().items()}
    trainer(1).fit(module(policy, decision=decision), OneBatch(colour_batch()))
    assert any(not torch.equal(policy.adapter_state()[n], old) for n, old in before.items())


def test_a_negative_limit_is_refused(folder) -> None:
    with pytest.raises(UserError, match="reasoning_tokens"):
        opened(folder, reasoning_tokens=-1)
