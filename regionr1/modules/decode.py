"""The decode loop: G completions per query from one prefill, without `generate`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from regionr1.modules.prefix import Prefix, continue_prefix, token_logits
from regionr1.modules.tokens import FREE, AnswerTokens

# Finished rows are dropped from the cache once this share is left: dropping copies the cache.
COMPACT_BELOW = 0.75


def decode(
    model: Qwen2_5_VLForConditionalGeneration,
    prefix: Prefix,
    tokens: AnswerTokens,
    plan: Tensor,
    temperature: float | None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Complete every row of the plan.

    Rows whose whole answer is dictated are never run. The model must be in eval mode: in train
    mode with gradient checkpointing, decoder layers drop the cache without an error.

    Args:
        model: The policy.
        prefix: B prefilled rows; used up.
        tokens: Ends, padding and banned ids.
        plan: (B * G, L) dictated ids, -1 where the token is chosen.
        temperature: Of sampling; None picks the most probable token.
        generator: Source of randomness on the model's device; None for torch's own.

    Returns:
        ids (B * G, T) padded after the end, and the mask (B * G, T) that is True up to and
        including the end token. T <= L is the longest completion.
    """
    if model.training:
        raise RuntimeError("decode needs eval mode: train mode may drop the cache silently")
    tokens = tokens.to(plan.device)
    total = len(plan)
    dictated = torch.isin(plan, tokens.eos).any(1)
    ids = torch.where(dictated[:, None] & (plan != FREE), plan, tokens.pad)
    rows = (~dictated).nonzero().squeeze(1)
    if len(rows):
        prefix = prefix.select(rows // (total // len(prefix.mask)))
        _run(model, prefix, tokens, plan, rows, ids, temperature, generator)
    ends = torch.isin(ids, tokens.eos)
    mask = (ends.cumsum(1) - ends.long()) == 0  # nothing ended before this token
    longest = int(mask.sum(1).max())
    return ids[:, :longest], mask[:, :longest]


def _run(
    model: Qwen2_5_VLForConditionalGeneration,
    prefix: Prefix,
    tokens: AnswerTokens,
    plan: Tensor,
    rows: Tensor,
    ids: Tensor,
    temperature: float | None,
    generator: torch.Generator | None,
) -> None:
    """Fill `ids[rows]` step by step."""
    length, width = plan.shape[1], prefix.mask.shape[1]
    mask = torch.cat([prefix.mask, prefix.mask.new_ones(len(rows), length)], dim=1)
    finished = torch.zeros_like(rows, dtype=torch.bool)
    hidden = prefix.hidden
    for step in range(length):
        chosen = _pick(token_logits(model, hidden, tokens.banned), temperature, generator)
        dictated = plan[rows, step]
        chosen = torch.where(dictated == FREE, chosen, dictated)
        chosen = torch.where(finished, tokens.pad, chosen)
        ids[rows, step] = chosen
        finished |= torch.isin(chosen, tokens.eos)
        left = int((~finished).sum())
        if left == 0 or step == length - 1:
            return
        if left <= COMPACT_BELOW * len(rows):
            keep = (~finished).nonzero().squeeze(1)
            prefix = prefix.select(keep)
            rows, mask, chosen, finished = rows[keep], mask[keep], chosen[keep], finished[keep]
        seen = mask[:, : width + step + 1]
        hidden = continue_prefix(model, prefix, chosen[:, None], seen, start=step)[:, -1]


def _pick(logits: Tensor, temperature: float | None, generator: torch.Generator | None) -> Tensor:
    """(N,) token ids from (N, V) logits."""
    if temperature is None:
        return logits.argmax(-1)
    # inverse CDF with one uniform per row: torch.multinomial draws one per vocabulary entry
    cdf = (logits / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1:]
    draw = torch.rand(total.shape, dtype=cdf.dtype, device=cdf.device, generator=generator)
    draw = torch.minimum(draw * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cdf, draw, right=True).squeeze(1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is back in the mode it was in."""
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True
