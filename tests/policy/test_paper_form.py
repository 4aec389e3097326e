"""Both answer forms under every way of deciding, with a real tiny policy."""

import pytest
import torch
from tiny_policy import build_tiny_policy, noise_images
from written_policy import OneBatch, colour_batch, module, move_adapter, trainer

from regionr1.algorithm.answers import Decision
from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.prompt import process
from regionr1.policy.tokens import FORMS

QUESTIONS = ["what?", "who painted this, and when?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A policy whose tokenizer joins some of the form's characters, as a BPE does."""
    pieces = ('{"Decision": "', "FULL", "REG", "ION", '"bbox_2d": [', "<tool_call>", "</tool_call>")
    return str(build_tiny_policy(tmp_path_factory.mktemp("policy"), pieces=pieces))


def opened(folder: str, form: str, **options) -> CropPolicy:
    torch.manual_seed(0)
    policy = CropPolicy(folder, answer=form, max_new_tokens=170, **options)
    move_adapter(policy)
    return policy


@pytest.mark.parametrize("grammar", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_forced_answers_are_the_forms_own(folder, form, grammar) -> None:
    policy = opened(folder, form, grammar=grammar)
    full, region = int(Decision.FULL), int(Decision.REGION)
    forced = torch.tensor([[full, region, region]] * 2)
    rollouts = policy.sample(noise_images([(50, 70), (130, 40)]), QUESTIONS, 3, forced)
    for b in range(2):
        assert rollouts.texts[b][0] == policy.form.full
        assert rollouts.decision[b, 0] == Decision.FULL
        for text, action in zip(rollouts.texts[b][1:], rollouts.actions[b][1:], strict=True):
            assert text.startswith(policy.form.region_prefix)
            if not grammar:
                continue
            assert text.endswith(policy.form.region_suffix)
            assert action.decision is Decision.REGION or action.reason == "the box has no area"
            if action.box_seen is not None:
                assert policy.form.region(action.box_seen) == text


@pytest.mark.parametrize("form", FORMS)
def test_the_exact_decision_is_read_where_the_answers_branch(folder, form) -> None:
    """Against the plain product of the probabilities of every token up to the branch."""
    policy = opened(folder, form).eval()
    tokens, (image,) = policy.tokens, noise_images([(50, 70)])
    at = len(tokens.shared)
    spelled = [policy.tokenizer.decode(ids[: at + 1]) for ids in (tokens.full, tokens.region)]
    if form == "paper":
        assert spelled == ['{"Decision": "FULL', '{"Decision": "REG']
    inputs = process(policy.processor, [image], QUESTIONS[:1], "{question}")
    answers = []
    for ids in (tokens.full, tokens.region):
        row = torch.cat([inputs["input_ids"], torch.tensor([ids[: at + 1]])], dim=1)
        types = torch.zeros_like(row)
        types[:, : -at - 1] = inputs["mm_token_type_ids"]
        with torch.no_grad():
            logits = policy.base(
                input_ids=row, mm_token_type_ids=types, pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"], use_cache=False,
            ).logits[0, -at - 2 : -1]  # fmt: skip
        logp = logits.masked_fill(tokens.banned, -torch.inf).log_softmax(-1)
        answers.append(sum(logp[i, token] for i, token in enumerate(ids[: at + 1])).exp())
    rollouts = policy.greedy([image], QUESTIONS[:1])
    found = torch.stack([rollouts.p_full, rollouts.p_region])[:, 0]
    torch.testing.assert_close(found, torch.stack(answers), atol=0, rtol=1e-4)
    assert torch.equal(policy.p_full([image], QUESTIONS[:1]), rollouts.p_full)


@pytest.mark.parametrize("decision", ["balanced", "exact", "on_policy"])
@pytest.mark.parametrize("form", FORMS)
def test_every_decider_learns_in_either_form(folder, form, decision) -> None:
    policy = opened(folder, form, grammar=True)
    before = {name: value.clone() for name, value in policy.adapter_state().items()}
    task = module(policy, decision=decision, group_size=4)
    run = trainer(max_steps=1)
    run.fit(task, OneBatch(colour_batch(["red", "green"])))
    assert run.global_step == 1 and run.callback_metrics["loss"].isfinite()
    if decision == "balanced":
        assert run.callback_metrics["decision/region_rate"] <= 0.5
    moved = [not torch.equal(before[n], value) for n, value in policy.adapter_state().items()]
    assert any(moved)


def test_the_system_message_stands_before_the_question(folder) -> None:
    plain = opened(folder, "paper")
    told = opened(folder, "paper", system="You choose a region.")
    (image,) = noise_images([(50, 70)])
    texts = [
        policy.tokenizer.decode(policy.encode([image], QUESTIONS[:1]).input_ids[0])
        for policy in (plain, told)
    ]
    assert "system" not in texts[0]
    assert texts[1] == f"<|im_start|>system\nYou choose a region.<|im_end|>\n{texts[0]}"


def test_an_unknown_form_is_refused(folder) -> None:
    with pytest.raises(UserError, match="answer must be one of short, paper, not 'long'"):
        CropPolicy(folder, answer="long")


def test_an_answer_that_does_not_fit_is_refused(folder) -> None:
    with pytest.raises(UserError, match="cannot hold an answer"):
        CropPolicy(folder, answer="paper", max_new_tokens=20)
