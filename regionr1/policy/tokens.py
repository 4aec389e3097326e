"""Token ids of the two answers: what is forced, what ends a completion, what may not be sampled."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from regionr1.algorithm.answers import SHORT, AnswerForm, Decision
from regionr1.algorithm.paper_answer import PAPER
from regionr1.errors import UserError
from regionr1.policy.grammar import AnswerGrammar, answer_grammar

FREE = -1
FormName = Literal["short", "paper"]
FORMS: dict[FormName, AnswerForm] = {"short": SHORT, "paper": PAPER}


@dataclass(frozen=True)
class AnswerTokens:
    """The answer grammar in one tokenizer's ids.

    Attributes:
        full: The whole FULL answer and the end token.
        region: The REGION answer up to its first number.
        eos: Ids that end a completion.
        pad: Id written after the end.
        banned: (V,) bool; ids that the policy never emits: vision tokens, padding (unless it ends
            a completion) and rows of the output layer that the tokenizer has no token for.
        grammar: What may be chosen where; None where anything may.
    """

    full: tuple[int, ...]
    region: tuple[int, ...]
    eos: Tensor
    pad: int
    banned: Tensor
    grammar: AnswerGrammar | None = None

    @property
    def shared(self) -> tuple[int, ...]:
        """The tokens both answers begin with; the decision is the token after them."""
        count = 0
        while self.full[count] == self.region[count]:
            count += 1
        return self.full[:count]

    def deciding(self, mask: Tensor) -> Tensor:
        """(..., T) bool, the tokens of completions (..., T) that make the decision."""
        first = torch.arange(mask.shape[-1], device=mask.device) <= len(self.shared)
        return first & mask

    def to(self, device: torch.device) -> "AnswerTokens":
        """Returns the same token ids with their tensors on `device`."""
        grammar = None if self.grammar is None else self.grammar.to(device)
        return replace(
            self, eos=self.eos.to(device), banned=self.banned.to(device), grammar=grammar
        )

    def plan(self, forced: Tensor, length: int) -> Tensor:
        """Which token ids are forced.

        Args:
            forced: (B, G) `Decision` per rollout, -1 where the model decides.
            length: Most tokens of a completion.

        Returns:
            (B * G, length) token ids, -1 where the token is sampled.
        """
        table = torch.full((3, length), FREE, dtype=torch.long)
        table[Decision.FULL, : len(self.full)] = torch.tensor(self.full)
        table[Decision.REGION, : len(self.region)] = torch.tensor(self.region)
        rows = forced.reshape(-1).to("cpu")
        if not torch.isin(rows, torch.tensor([FREE, Decision.FULL, Decision.REGION])).all():
            raise ValueError("forced decisions are -1 (free), FULL or REGION")
        return table[torch.where(rows == FREE, 2, rows)].to(forced.device)


def answer_tokens(
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    further_ends: int | list[int] | None,
    grammar: bool = False,
    form: AnswerForm = SHORT,
) -> AnswerTokens:
    """Read the ids from a tokenizer and a Qwen2.5-VL config.

    Args:
        tokenizer: The policy's tokenizer.
        config: The policy's config.
        further_ends: Ids that also end a completion, as a generation config gives them.
        grammar: Restrict answers to the grammar.
        form: How the answers are written.

    Raises:
        UserError: No end or padding token, or the two answers cannot be told apart.
    """
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    if eos is None or pad is None:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer needs an eos and a pad token")
    full = (*tokenizer(form.full, add_special_tokens=False)["input_ids"], eos)
    region = tuple(tokenizer(form.region_prefix, add_special_tokens=False)["input_ids"])
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in (*full, *region):
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer cannot spell the two answers")
    if all(a == b for a, b in zip(full, region, strict=False)):
        raise UserError(f"{tokenizer.name_or_path}: both answers begin with the same tokens")
    further = further_ends if isinstance(further_ends, list) else [further_ends]
    ends = sorted({eos, *(index for index in further if index is not None)})
    banned = torch.zeros(config.get_text_config().vocab_size, dtype=torch.bool)
    banned[len(tokenizer) :] = True
    vision = [
        getattr(config, name, None)
        for name in (
            "image_token_id",
            "video_token_id",
            "vision_start_token_id",
            "vision_end_token_id",
        )
    ]
    banned[[index for index in (*vision, pad) if index is not None]] = True
    banned[ends] = False
    tokens = AnswerTokens(full, region, torch.tensor(ends), pad, banned)
    if not grammar:
        return tokens
    return replace(
        tokens, grammar=answer_grammar(tokenizer, full, region, len(tokens.shared), form)
    )
