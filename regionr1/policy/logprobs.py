"""Log-probabilities of completions: a plain reference and two fast paths that equal it.

`dense` repeats the prompt in front of every completion: B * G rows of P + T tokens. `two_pass`
runs the prompt once per query with its gradient, repeats the keys and values G times and runs only
the completions: B rows of P and B * G rows of T. `packed` runs B rows of P + G * T tokens under a
mask that keeps the completions apart; it alone is fast with gradient checkpointing. Values and
gradients agree (tests).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Qwen2_5_VLForConditionalGeneration

from regionr1.algorithm.objective import Scored
from regionr1.errors import UserError
from regionr1.policy.packed import packed_hidden
from regionr1.policy.prefix import (
    Prefix,
    continue_prefix,
    decision_from_hidden,
    decision_logprobs,
    prefill,
    token_logits,
)
from regionr1.policy.prompt import Prompt, mrope_positions
from regionr1.policy.tokens import AnswerTokens

LogprobPath = Literal["two_pass", "packed", "dense"]


class PolicyPass(NamedTuple):
    """What one pass over B queries with G completions each yields.

    Attributes:
        logp: (B, G, T) log-probability of each token at the policy's temperature; 0 off the mask
            and where a grammar forced the token.
        entropy: (B, G, T) of each token's distribution in nats, no gradient; 0 there too.
        log_p_full: (B,) exact log pi(FULL) at temperature 1.
        log_p_region: (B,) exact log pi(REGION) at temperature 1.
    """

    logp: Tensor
    entropy: Tensor
    log_p_full: Tensor
    log_p_region: Tensor

    @property
    def scored(self) -> Scored:
        """What the loss needs of the pass."""
        return Scored(self.logp, self.log_p_full, self.log_p_region)


def policy_pass(
    model: Qwen2_5_VLForConditionalGeneration,
    prompt: Prompt,
    tokens: AnswerTokens,
    completion_ids: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    path: LogprobPath = "two_pass",
    states: Tensor | None = None,
    prefix: Prefix | None = None,
) -> PolicyPass:
    """Score completions under the policy; differentiable where gradients are enabled.

    Args:
        model: The policy.
        prompt: B prompts.
        tokens: Banned ids and the two answers.
        completion_ids: (B, G, T)
        mask: (B, G, T) bool, True up to and including the end token.
        temperature: Logits are divided by it, as in sampling.
        states: (B, G, T) states of the grammar, where the policy has one.
        prefix: The prompts' prefill by this very policy, for `two_pass`; used up.
        path: `two_pass` or `packed` (fast; the latter for gradient checkpointing), or `dense`.

    Raises:
        UserError: `two_pass` while gradient checkpointing is active, which drops the cache.
    """
    language = model.model.language_model
    if path == "two_pass" and language.gradient_checkpointing and language.training:
        raise UserError(
            "two_pass log-probabilities need the cache that gradient checkpointing drops: set "
            "logprob_path=packed (or dense) or gradient_checkpointing=false"
        )
    tokens = tokens.to(mask.device)
    ids, keep = completion_ids.flatten(0, 1), mask.flatten(0, 1)
    query = torch.arange(len(prompt.mask), device=ids.device)
    query = query.repeat_interleave(completion_ids.shape[1])
    inputs = (model, prompt, tokens, ids, keep, query)
    if path == "two_pass":
        hidden, log_p_full, log_p_region = _two_pass(*inputs, prefix)
    else:
        run = _packed if path == "packed" else _dense
        hidden, log_p_full, log_p_region = run(*inputs)
    # select the labelled positions before the head: its (N, V) output is the largest tensor
    label, grammar = keep, tokens.grammar
    if grammar is not None:
        if states is None:
            raise ValueError("log-probabilities under a grammar need its states")
        state = states.flatten(0, 1)
        label = keep & (state >= 0)
        logits = grammar.logits(model, hidden[label], state[label])
        target = grammar.column(ids[label])
    else:
        logits, target = token_logits(model, hidden[label], tokens.banned), ids[label]
    table = (logits / temperature).log_softmax(-1)
    chosen = table.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = torch.special.entr(table.exp()).sum(-1)
    blank = torch.zeros(ids.shape, dtype=chosen.dtype, device=ids.device)
    return PolicyPass(
        blank.masked_scatter(label, chosen).view_as(completion_ids),
        blank.masked_scatter(label, entropy).view_as(completion_ids),
        log_p_full,
        log_p_region,
    )


def _two_pass(
    model: Qwen2_5_VLForConditionalGeneration,
    prompt: Prompt,
    tokens: AnswerTokens,
    ids: Tensor,
    keep: Tensor,
    query: Tensor,
    prefix: Prefix | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(B * G, T, hidden) predicting each completion token, and the decision."""
    if prefix is None:
        prefix = prefill(model, prompt)
    log_p_full, log_p_region = decision_logprobs(model, prefix, tokens)
    rows = prefix.repeat(len(query) // len(prefix.mask))
    hidden = rows.hidden[:, None]
    if ids.shape[1] > 1:
        seen = torch.cat([rows.mask, keep[:, :-1]], dim=1)
        rest = continue_prefix(model, rows, ids[:, :-1], seen)
        hidden = torch.cat([hidden, rest], dim=1)
    return hidden, log_p_full, log_p_region


def _packed(
    model: Qwen2_5_VLForConditionalGeneration,
    prompt: Prompt,
    tokens: AnswerTokens,
    ids: Tensor,
    keep: Tensor,
    query: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score what `_two_pass` scores, in one pass of one row per query."""
    shape = (len(prompt.mask), -1)
    branches, kept = ids.unflatten(0, shape), keep.unflatten(0, shape).clone()
    length = len(tokens.shared)
    if length:  # the decision comes after the tokens both answers begin with: one more branch
        size = max(length + 1, branches.shape[-1])
        branches = pad(branches, (0, size - branches.shape[-1], 0, 1), value=tokens.pad)
        kept = pad(kept, (0, size - kept.shape[-1], 0, 1))
        branches[:, -1, :length] = torch.tensor(tokens.shared, device=ids.device)
        kept[:, -1, : length + 1] = True
    # the last token of a completion predicts nothing
    last, rest = packed_hidden(model, prompt, branches[..., :-1], kept[..., 1:] & kept[..., :-1])
    group = len(query) // len(prompt.mask)
    first = last[:, None, None].expand(-1, rest.shape[1], -1, -1)
    hidden = torch.cat([first, rest], dim=2)
    decided = decision_from_hidden(model, hidden[:, -1, : length + 1], tokens)
    return hidden[:, :group, : ids.shape[1]].flatten(0, 1), *decided


def _dense(
    model: Qwen2_5_VLForConditionalGeneration,
    prompt: Prompt,
    tokens: AnswerTokens,
    ids: Tensor,
    keep: Tensor,
    query: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score what `_two_pass` scores with a prompt in every row and nothing cached."""
    width = prompt.mask.shape[1]
    whole = _dense_hidden(model, prompt, ids, keep, query)[:, width - 1 :]
    group = len(query) // len(prompt.mask)
    last = whole[::group, :1]  # of each prompt, as its first completion's row has it
    if tokens.shared:  # the decision comes after them: one more row per query
        shared = torch.tensor(tokens.shared, dtype=torch.long, device=ids.device)
        start = shared.expand(len(prompt.mask), -1)
        each = torch.arange(len(prompt.mask), device=ids.device)
        there = torch.ones_like(start, dtype=torch.bool)
        last = _dense_hidden(model, prompt, start, there, each)[:, width - 1 :]
    return whole[:, :-1], *decision_from_hidden(model, last, tokens)


def _dense_hidden(
    model: Qwen2_5_VLForConditionalGeneration,
    prompt: Prompt,
    ids: Tensor,
    keep: Tensor,
    query: Tensor,
) -> Tensor:
    """(N, P + T, hidden) of whole sequences: prompt `query[n]`, then `ids[n]`."""
    embeds = torch.cat([prompt.embeddings(model)[query], model.get_input_embeddings()(ids)], dim=1)
    mask = torch.cat([prompt.mask[query], keep], dim=1)
    types = prompt.mm_token_type_ids[query]
    positions = mrope_positions(
        model,
        {
            "input_ids": torch.cat([prompt.input_ids[query], ids], dim=1),
            "mm_token_type_ids": torch.cat([types, torch.zeros_like(ids)], dim=1),
            "image_grid_thw": prompt.image_grid_thw[query],
            "attention_mask": mask.long(),
        },
    )
    return model.model.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
