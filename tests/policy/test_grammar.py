"""Jump-ahead decoding equals decoding token by token, all of the sequence run anew each time."""

import pytest
import torch
from PIL import Image
from tiny_policy import build_tiny_policy, build_tokenizer, noise_images
from written_policy import OneBatch, colour_batch, load_adapter, module, move_adapter, trainer

from regionr1.algorithm.answers import FULL_ANSWER, REGION_PREFIX, Decision, parse_answer
from regionr1.builtin.policy_model import build_tokenizer as build_number_tokenizer
from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.grammar import answer_grammar

QUESTIONS = ["what?", "who painted this, and when?"]
SIZES = [(50, 70), (130, 40)]
PIECES = {"pieces": (FULL_ANSWER, REGION_PREFIX), "letters": ()}


@pytest.fixture(scope="module", params=PIECES)
def policy(request, tmp_path_factory) -> CropPolicy:
    folder = build_tiny_policy(tmp_path_factory.mktemp("policy"), pieces=PIECES[request.param])
    policy = CropPolicy(str(folder), max_new_tokens=40, grammar=True)
    move_adapter(policy)
    return policy


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return noise_images(SIZES)


def goes_on(text: str, digits: int) -> bool:
    """Whether a text after REGION_PREFIX can go on to an answer, read character by character."""
    rest, numbers = text[len(REGION_PREFIX) :], 1
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        rest = rest[len(number) :]
        if len(number) > digits or (len(number) > 1 and number[0] == "0"):
            return False
        if not rest:
            return True
        end = ", " if numbers < 4 else "]}"
        if not number or not (rest.startswith(end) or end.startswith(rest)):
            return False
        rest, numbers = rest[len(end) :], numbers + (numbers < 4)
    return True


def allowed_next(policy: CropPolicy, written: list[int], digits: int) -> list[int]:
    """Tokens that keep the answer canonical in text and in spelling; the end token after it."""
    spell, eos = policy.tokenizer, policy.tokenizer.eos_token_id
    text = spell.decode(written)
    if text == FULL_ANSWER or (text.endswith("]}") and parse_answer(text)):
        return [eos]
    start, found = spell(REGION_PREFIX)["input_ids"], []
    for token in range(len(spell)):
        ids, longer = [*written, token], text + spell.decode([token])
        spelled = longer != text and spell(longer)["input_ids"] == ids
        if any(ids == whole[: len(ids)] for whole in (start, spell(FULL_ANSWER)["input_ids"])):
            found.append(token)
        elif spelled and ids[: len(start)] == start and goes_on(longer, digits):
            found.append(token)
    return found


@torch.no_grad()
def token_by_token(policy, image, question, forced, temperature, draws):
    """One completion without cache or jumps: ids, whether each was a choice, log-probabilities."""
    policy.eval()
    prompt = policy.encode([image], [question])
    digits = len(str(int(prompt.seen_hw.max())))
    pixels = policy.processor.image_processor([image], return_tensors="pt")
    written, chosen, logps = [], [], []
    while not written or written[-1] != policy.tokenizer.eos_token_id:
        options = torch.tensor(allowed_next(policy, written, digits))
        row = torch.cat([prompt.input_ids, torch.tensor([written], dtype=torch.long)], dim=1)
        types = torch.zeros_like(row)
        types[:, : prompt.input_ids.shape[1]] = prompt.mm_token_type_ids
        logits = policy.base(input_ids=row, mm_token_type_ids=types, use_cache=False, **pixels)
        logp = (logits.logits[0, -1, options].float() / (temperature or 1.0)).log_softmax(-1)
        if len(options) == 1:
            pick = 0
        elif not written and forced >= 0:
            pick = options.tolist().index((policy.tokens.full, policy.tokens.region)[forced][0])
        elif temperature is None:
            pick = int(logp.argmax())
        else:
            cdf = logp.double().exp().cumsum(-1)
            pick = int(torch.searchsorted(cdf / cdf[-1], draws[sum(chosen)]))
        written.append(int(options[pick]))
        chosen.append(len(options) > 1)
        logps.append(float(logp[pick]) if len(options) > 1 else 0.0)
    policy.train()
    return written, chosen, logps


@pytest.mark.parametrize("temperature", [None, 0.7])
def test_jumping_ahead_changes_nothing(policy, images, temperature, monkeypatch) -> None:
    group = 5
    forced = torch.full((2, group), -1)
    forced[0, 0], forced[0, 1], forced[1, 0] = Decision.REGION, Decision.FULL, Decision.REGION
    monkeypatch.setattr(policy, "temperature", temperature or 1.0)
    calls = []
    hook = policy.base.model.language_model.register_forward_pre_hook(
        lambda m, args, kwargs: calls.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    if temperature is None:
        with torch.no_grad():
            prompt = policy.encode(images, QUESTIONS)
            rollouts = policy._roll_out(prompt, group, forced, None, None)
    else:
        noise = torch.Generator().manual_seed(3)
        rollouts = policy.sample(images, QUESTIONS, group, forced, noise)
    hook.remove()
    assert len(calls) - 1 <= 12, "a decision, 4 numbers of 3 digits, and the last is not fed"
    draws = torch.rand(
        2 * group, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    scores = {
        path: policy_scores(policy, rollouts, path) for path in ("two_pass", "packed", "dense")
    }
    lengths = set()
    for b in range(2):
        for g in range(group):
            ids, chosen, logps = token_by_token(
                policy, images[b], QUESTIONS[b], int(forced[b, g]), temperature,
                draws[b * group + g].tolist(),
            )  # fmt: skip
            keep = rollouts.mask[b, g]
            assert rollouts.completion_ids[b, g][keep].tolist() == ids
            assert (rollouts.states[b, g][keep] >= 0).tolist() == chosen
            for path, logp in scores.items():
                torch.testing.assert_close(
                    logp[b, g][keep], torch.tensor(logps), atol=1e-5, rtol=0, msg=path
                )
            lengths.add(len(ids))
            assert rollouts.decision[b, g] != Decision.INVALID or "no area" in (
                rollouts.actions[b][g].reason
            )
    assert len(lengths) > 2, "the completions must be ragged"


def policy_scores(policy, rollouts, path):
    policy.logprob_path = path
    with torch.no_grad():
        return policy.score(rollouts).logp


def test_under_the_grammar_there_are_two_decisions(policy, images) -> None:
    rollouts = policy.sample(images, QUESTIONS, 3)
    torch.testing.assert_close(rollouts.p_full + rollouts.p_region, torch.ones(2))
    result = policy.score(rollouts)
    at = len(policy.tokens.shared)
    decided = torch.where(
        rollouts.decision == Decision.FULL, result.log_p_full[:, None], result.log_p_region[:, None]
    )
    torch.testing.assert_close(result.logp[..., at], decided)
    assert (result.logp[~rollouts.chosen] == 0).all()
    result.logp.sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.requires_grad)
    policy.zero_grad()


def test_numbers_in_one_token_take_one_choice_each() -> None:
    tokenizer = build_number_tokenizer(["what is this?"])
    spell = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    full = (*spell(FULL_ANSWER), tokenizer.eos_token_id)
    grammar = answer_grammar(tokenizer, full, spell(REGION_PREFIX), 0)
    state = int(grammar.start(torch.tensor([[112, 90]]))[0])
    written, choices = [], 0
    for text in (REGION_PREFIX, "7", "0", "112", "999"):
        token = torch.tensor(spell(text)[0])
        column = int(grammar.column(token))
        assert grammar.allowed[state, column]
        forced = grammar.runs[grammar.run[state, column]]
        written += [int(token), *forced[forced >= 0].tolist()]
        state, choices = int(grammar.following[state, column]), choices + 1
    assert state == -1 and choices == 5
    assert written == [*spell('{"bbox_2d": [7, 0, 112, 999]}'), tokenizer.eos_token_id]
    assert len(written) <= grammar.longest
    small = int(grammar.start(torch.tensor([[64, 90]]))[0]) + 1
    assert not grammar.allowed[small, int(grammar.column(torch.tensor(spell("112")[0])))]
    with pytest.raises(UserError, match="grammar=false"):
        grammar.start(torch.tensor([[10000, 90]]))


def test_the_shipped_policy_speaks_the_grammar(images) -> None:
    policy = CropPolicy("builtin", max_new_tokens=12, grammar=True)
    calls = []
    hook = policy.base.model.language_model.register_forward_pre_hook(
        lambda m, args, kwargs: calls.append(1), with_kwargs=True
    )
    forced = torch.full((2, 4), int(Decision.REGION))
    rollouts = policy.sample(images, QUESTIONS, 4, forced)
    hook.remove()
    assert len(calls) == 1 + 4, "a prefill and four numbers, the last of which is not fed"
    readable = [a for row in rollouts.actions for a in row if "no area" not in a.reason]
    assert all(action.decision == Decision.REGION for action in readable)


@pytest.mark.parametrize("piece", ["12", ", 4", "]}<", "[7"])
def test_a_tokenizer_that_spells_otherwise_is_refused(piece) -> None:
    tokenizer = build_tokenizer([piece])
    spell = lambda text: tokenizer(text)["input_ids"]  # noqa: E731
    full, region = (*spell(FULL_ANSWER), tokenizer.eos_token_id), spell(REGION_PREFIX)
    if piece == "]}<":  # never occurs in an answer
        assert answer_grammar(tokenizer, full, region, 0).longest > 0
        return
    with pytest.raises(UserError, match="grammar=false"):
        answer_grammar(tokenizer, full, region, 0)


def test_an_answer_must_fit(tmp_path) -> None:
    folder = str(build_tiny_policy(tmp_path))
    with pytest.raises(UserError, match="set at least 26"):
        CropPolicy(folder, max_new_tokens=20, grammar=True)


@pytest.mark.parametrize("decision", ["exact", "balanced", "on_policy"])
def test_training_under_the_grammar(policy, decision) -> None:
    before = {name: value.clone() for name, value in policy.adapter_state().items()}
    rgrpo = module(policy, decision=decision, group_size=4, kl_weight=0.1)
    run = trainer(1)
    run.fit(rgrpo, datamodule=OneBatch(colour_batch()))
    assert any(not torch.equal(before[n], v) for n, v in policy.adapter_state().items())
    assert run.callback_metrics["loss"].isfinite() and run.callback_metrics["entropy"] > 0
    load_adapter(policy, before)
