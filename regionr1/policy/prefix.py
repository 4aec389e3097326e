"""The shared prefix: one prefill per query, from which every completion of its group continues."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLTextModel

from regionr1.policy.prompt import Prompt
from regionr1.policy.tokens import AnswerTokens

# Every language model took `past_key_values` up to transformers 5.23. 5.24 calls it `cache` and
# warns of the old name at each pass; 5.40 drops it.
CACHE = {"cache", "past_key_values"}.intersection(
    signature(Qwen2_5_VLTextModel.forward).parameters
).pop()


@dataclass
class Prefix:
    """A prefilled prompt. With gradients enabled, the cache carries them.

    Attributes:
        cache: Keys and values of the B prompt rows.
        hidden: (B, hidden) at the last prompt token, which predicts the first completion token.
        mask: (B, P) bool.
        next_position: (B,)
    """

    cache: DynamicCache
    hidden: Tensor
    mask: Tensor
    next_position: Tensor

    def detached(self) -> "Prefix":
        """Return a copy without gradient, which may grow and repeat while this one stays."""
        cache = copy(self.cache)
        cache.layers = [copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
        return Prefix(cache, self.hidden.detach(), self.mask, self.next_position)

    def repeat(self, times: int) -> "Prefix":
        """Repeats every row `times` times in a row, to (B * times) rows, differentiable."""
        self.cache.batch_repeat_interleave(times)
        return Prefix(
            self.cache,
            self.hidden.repeat_interleave(times, 0),
            self.mask.repeat_interleave(times, 0),
            self.next_position.repeat_interleave(times, 0),
        )

    def select(self, rows: Tensor) -> "Prefix":
        """One row per entry of `rows` (N,), in that order; rows may repeat or be left out."""
        self.cache.batch_select_indices(rows)
        return Prefix(self.cache, self.hidden[rows], self.mask[rows], self.next_position[rows])


def prefill(model: Qwen2_5_VLForConditionalGeneration, prompt: Prompt) -> Prefix:
    """Run the language model over the B prompts, once."""
    language = model.model.language_model
    cache = DynamicCache(config=language.config)
    output = language(
        inputs_embeds=prompt.embeddings(model),
        attention_mask=prompt.mask,
        position_ids=prompt.position_ids,
        use_cache=True,
        **{CACHE: cache},
    )
    return Prefix(cache, output.last_hidden_state[:, -1], prompt.mask, prompt.next_position)


def continue_prefix(
    model: Qwen2_5_VLForConditionalGeneration,
    prefix: Prefix,
    tokens: Tensor,
    mask: Tensor,
    offsets: Tensor | None = None,
    language: Callable[..., Any] | None = None,
) -> Tensor:
    """Feed tokens after a prefix; its cache grows by them.

    Args:
        model: The policy.
        prefix: N prefilled rows.
        tokens: (N, S) ids of completion tokens.
        mask: (N, P + tokens fed before + S) bool over all that the cache then holds.
        offsets: (N, S) place of each token in its completion; None for 0 .. S - 1.
        language: The model's language model, compiled; None for itself.

    Returns:
        (N, S, hidden)
    """
    if offsets is None:
        offsets = torch.arange(tokens.shape[1], device=tokens.device)
    positions = prefix.next_position[:, None] + offsets
    return (language or model.model.language_model)(
        inputs_embeds=model.get_input_embeddings()(tokens),
        attention_mask=mask,
        # after the prompt, time, height and width advance together
        position_ids=positions.expand(3, -1, -1),
        use_cache=True,
        **{CACHE: prefix.cache},
    ).last_hidden_state


def token_logits(
    model: Qwen2_5_VLForConditionalGeneration, hidden: Tensor, banned: Tensor
) -> Tensor:
    """(..., V) float32 logits of the next token, -inf on `banned` (V,) ids."""
    return model.lm_head(hidden).float().masked_fill(banned, -torch.inf)


def decision_logprobs(
    model: Qwen2_5_VLForConditionalGeneration, prefix: Prefix, tokens: AnswerTokens
) -> tuple[Tensor, Tensor]:
    """Exact log pi(FULL) and log pi(REGION) of each query, without sampling.

    Usually the prefill alone tells; where both answers begin with the same tokens, these are fed.

    Args:
        model: The policy.
        prefix: B prefilled rows, not expanded; left as it was.
        tokens: The answers.

    Returns:
        Two tensors (B,), differentiable where gradients are enabled.
    """
    shared = tokens.shared
    hidden = prefix.hidden[:, None]
    if shared:
        ids = torch.tensor(shared, device=hidden.device).expand(len(hidden), -1)
        mask = torch.cat([prefix.mask, torch.ones_like(ids, dtype=torch.bool)], dim=1)
        hidden = torch.cat([hidden, continue_prefix(model, prefix, ids, mask)], dim=1)
        prefix.cache.crop(-len(shared))
    return decision_from_hidden(model, hidden, tokens)


def decision_from_hidden(
    model: Qwen2_5_VLForConditionalGeneration, hidden: Tensor, tokens: AnswerTokens
) -> tuple[Tensor, Tensor]:
    """Takes log pi(FULL) and log pi(REGION) from what predicts the tokens up to the decision.

    The decision is made at the first token where the two answers differ, so each value is the
    log-probability of its answer up to and including that token, at temperature 1. Without a
    grammar that is softmax over the whole vocabulary, and what the two leave of 1 is the
    probability of starting any other, unparsable answer. With one there are these two alone.

    Args:
        model: The policy.
        hidden: (B, shared + 1, hidden) at the last prompt token and at the tokens both share.
        tokens: The answers.
    """
    tokens = tokens.to(hidden.device)
    decisive = len(tokens.shared)
    full, region = tokens.full[decisive], tokens.region[decisive]
    if tokens.grammar is not None:
        states = tokens.grammar.starts[1].expand(len(hidden))
        logp = tokens.grammar.logits(model, hidden[:, decisive], states).log_softmax(-1)
        columns = tokens.grammar.column(torch.tensor([full, region], device=logp.device))
        chosen = logp[:, columns]
        return chosen[:, 0], chosen[:, 1]
    logp = token_logits(model, hidden, tokens.banned).log_softmax(-1)
    before = sum(
        (logp[:, i, token] for i, token in enumerate(tokens.shared)), logp.new_zeros(len(logp))
    )
    return before + logp[:, decisive, full], before + logp[:, decisive, region]
