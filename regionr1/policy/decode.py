"""The decode loop: G completions per query from one prefill, without `generate`.

Every round each row chooses one token and is fed a block: that token and all that it forces.
Without a grammar nothing is forced and a block is one token.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from regionr1.policy.grammar import NOTHING
from regionr1.policy.prefix import Prefix, continue_prefix, token_logits
from regionr1.policy.tokens import FREE, AnswerTokens

# Finished rows are dropped from the cache once this share is left: dropping copies the cache.
COMPACT_BELOW = 0.75


Stop = Callable[[Tensor, Tensor], Tensor]
"""Of ids (N, L) and how many of each row are written (N,): which rows have ended, (N,) bool."""


class Decoded(NamedTuple):
    """N completions as they were sampled.

    Attributes:
        ids: (N, T) token ids, padded after the end. T is the longest completion.
        mask: (N, T) bool, True up to and including the end token.
        states: (N, T) state of the grammar where it left a choice, -1 elsewhere; None without one.
    """

    ids: Tensor
    mask: Tensor
    states: Tensor | None


def decode(
    model: Qwen2_5_VLForConditionalGeneration,
    prefix: Prefix,
    tokens: AnswerTokens,
    plan: Tensor,
    temperature: float | None,
    generator: torch.Generator | None = None,
    sides: Tensor | None = None,
    stop: Stop | None = None,
    language: Callable[..., Any] | None = None,
) -> Decoded:
    """Complete every row of the plan.

    Rows whose whole answer is forced are never run. The model must be in eval mode: in train
    mode with gradient checkpointing, decoder layers drop the cache without an error.

    Args:
        model: The policy.
        prefix: B prefilled rows; used up.
        tokens: Ends, padding, banned ids and the grammar, if any.
        plan: (B * G, L) forced ids at the beginning, -1 where the token is chosen.
        temperature: Of sampling; None picks the most probable token.
        generator: Source of randomness on the model's device; None for torch's own.
        sides: (B, 2) largest y and x that a box can hold, `CoordFrame.sides`; for the grammar.
        stop: Which rows have ended by another token than those that always end one.
        language: The model's language model, compiled; None for itself.
    """
    if model.training:
        raise RuntimeError("decode needs eval mode: train mode may drop the cache silently")
    tokens = tokens.to(plan.device)
    total, length = plan.shape
    group = total // len(prefix.mask)
    forced = torch.isin(plan, tokens.eos).any(1)
    ids = torch.where(forced[:, None] & (plan != FREE), plan, tokens.pad)
    states = None
    if tokens.grammar is not None:
        assert sides is not None
        states = torch.full_like(ids, NOTHING)
        states[:, len(tokens.shared)] = tokens.grammar.start(sides).repeat_interleave(group)
    draws = None
    if temperature is not None:
        # One number per row and choice, whatever the other rows do: what a row says depends on it
        # alone, and torch.multinomial would draw one per vocabulary entry.
        shape, device = (total, length), plan.device
        draws = torch.rand(shape, dtype=torch.float64, device=device, generator=generator)
    rows = (~forced).nonzero().squeeze(1)
    lengths = torch.isin(plan, tokens.eos).long().argmax(1) + 1  # of what is forced
    if len(rows):
        picked = prefix.select(rows // group)
        run = _Run(model, picked, tokens, plan, rows, ids, states, lengths, stop, language)
        run.complete(temperature, draws)
    mask = torch.arange(length, device=lengths.device) < lengths[:, None]
    longest = int(lengths.max())
    return Decoded(
        ids[:, :longest], mask[:, :longest], None if states is None else states[:, :longest]
    )


class _Run:
    """The rows still being completed; writes into `ids`, `states` and `lengths`."""

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        prefix: Prefix,
        tokens: AnswerTokens,
        plan: Tensor,
        rows: Tensor,
        ids: Tensor,
        states: Tensor | None,
        lengths: Tensor,
        stop: Stop | None,
        language: Callable[..., Any] | None,
    ) -> None:
        self.model, self.prefix, self.tokens = model, prefix, tokens
        self.language = language
        self.rows, self.ids, self.states = rows, ids, states
        self.lengths, self.stop = lengths, stop
        self.plan, self.length = plan[rows], plan.shape[1]
        self.seen, self.hidden = prefix.mask, prefix.hidden
        self.written = torch.zeros_like(rows)
        self.finished = torch.zeros_like(rows, dtype=torch.bool)
        if states is not None:
            self.state = states[rows, len(tokens.shared)]

    def complete(self, temperature: float | None, draws: Tensor | None) -> None:
        """Decodes until every row has ended or is full."""
        if self.tokens.grammar is None:
            self.take(self.plan.where((self.plan != FREE).cumprod(1).bool(), NOTHING))
        elif self.tokens.shared:
            self.take(
                torch.tensor(self.tokens.shared, device=self.rows.device).expand(len(self.rows), -1)
            )
        for choice in range(self.length):
            draw = None if draws is None else draws[self.rows, choice]
            self.take(self.choose(temperature, draw), feed=False)
            left = int((~self.finished).sum())
            if left == 0:
                return
            if left <= COMPACT_BELOW * len(self.rows):
                self.keep((~self.finished).nonzero().squeeze(1))
            self.feed()

    def choose(self, temperature: float | None, draw: Tensor | None) -> Tensor:
        """(N, 1 + L) the token each row chooses and the tokens that follow from it."""
        grammar = self.tokens.grammar
        if grammar is None:
            logits = token_logits(self.model, self.hidden, self.tokens.banned)
            return _pick(logits, temperature, draw)[:, None]
        state = self.state.clamp(min=0)  # rows that are finished have none
        column = _pick(grammar.logits(self.model, self.hidden, state), temperature, draw)
        at_decision = self.written == len(self.tokens.shared)
        forced = self.plan[:, len(self.tokens.shared)]
        forced = torch.where(at_decision, forced, FREE)
        column = torch.where(forced == FREE, column, grammar.column(forced))
        assert self.states is not None
        going = ~self.finished
        self.states[self.rows[going], self.written[going]] = state[going]
        self.state = grammar.following[state, column]
        scaffolding = grammar.runs[grammar.run[state, column]]
        return torch.cat([grammar.ids[column][:, None], scaffolding], dim=1)

    def take(self, new: Tensor, feed: bool = True) -> None:
        """Write tokens (N, S), -1 after each row's last, and feed them at once or later."""
        new = new.masked_fill(self.finished[:, None], NOTHING)
        place = self.written[:, None] + torch.arange(new.shape[1], device=new.device)
        real = (new != NOTHING) & (place < self.length)
        self.ids[self.rows[:, None].expand_as(new)[real], place[real]] = new[real]
        count = real.sum(1)
        self.written = self.written + count
        self.lengths[self.rows] = self.written
        self.finished |= (torch.isin(new, self.tokens.eos) & real).any(1)
        self.finished |= self.written >= self.length
        if self.stop is not None:
            self.finished |= self.stop(self.ids[self.rows], self.written)
        # Rows are fed blocks of several lengths: their last tokens stand in the last column.
        width = int(count.max())
        index = torch.arange(width, device=new.device) - (width - count)[:, None]
        self.real = index >= 0
        self.block = new.gather(1, index.clamp(min=0)).where(self.real, self.tokens.pad)
        if feed:
            self.feed()

    def feed(self) -> None:
        """Run the model over the block, which the cache then holds."""
        width = self.block.shape[1]
        if width == 0:
            return
        self.seen = torch.cat([self.seen, self.real], dim=1)
        place = self.written[:, None] + torch.arange(-width, 0, device=self.block.device)
        output = continue_prefix(
            self.model, self.prefix, self.block, self.seen, place, self.language
        )
        self.hidden = output[:, -1].where(self.real[:, -1:], self.hidden)

    def keep(self, index: Tensor) -> None:
        """Go on with these rows only."""
        self.prefix = self.prefix.select(index)
        for name in ("rows", "plan", "seen", "hidden", "written", "finished", "block", "real"):
            setattr(self, name, getattr(self, name)[index])
        if self.states is not None:
            self.state = self.state[index]


def _pick(logits: Tensor, temperature: float | None, draw: Tensor | None) -> Tensor:
    """(N,) columns of (N, V) logits: the highest, or by inverse CDF of draws (N,) in 0..1."""
    if temperature is None or draw is None:
        return logits.argmax(-1)
    cdf = (logits / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    total = cdf[:, -1:]
    draw = torch.minimum(draw[:, None] * total, total.nextafter(torch.zeros_like(total)))
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
