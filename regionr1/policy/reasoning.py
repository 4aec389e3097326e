"""Free reasoning before an answer: written once per query, then a part of its prompt.

An option of ours: the paper's answer (table 10) has no place for reasoning. One text of it is
decoded per query, up to `</think>`, and the G answers branch where the decision is made. So
everything that holds for a prompt holds for it: the group shares its prefill (a second one, after
the one that the reasoning was decoded from), the decision after it is exact, and a quota of
decisions can be forced. The group shares its tokens too, so they have no advantage of their own
(a group's advantages sum to zero), and are not trained.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from regionr1.policy.decode import decode
from regionr1.policy.prefix import prefill
from regionr1.policy.prompt import Prompt
from regionr1.policy.tokens import FREE, AnswerTokens

OPEN, CLOSE = "<think>", "</think>"


def with_reasoning(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    tokens: AnswerTokens,
    prompt: Prompt,
    most: int,
    temperature: float | None,
    generator: torch.Generator | None = None,
    language: Callable[..., Any] | None = None,
) -> tuple[Prompt, list[str]]:
    """Let the policy reason about B queries, in eval mode and without gradient.

    Args:
        model: The policy.
        tokenizer: Of the policy.
        tokens: Ends, padding and banned ids.
        prompt: The queries.
        most: Most tokens of reasoning; what is longer is cut and closed.
        temperature: Of sampling; None picks the most probable token.
        generator: Source of randomness on the model's device.
        language: The model's language model, compiled; None for itself.

    Returns:
        The prompt with `<think>...</think>` at its end, and the texts in between.
    """
    device = prompt.mask.device

    def spelled(text: str) -> Tensor:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, device=device).expand(len(prompt.mask), -1)

    def closed(ids: Tensor, written: Tensor) -> Tensor:
        # each token is a character at least: whatever closed it is among the last few
        tail = written[:, None] + torch.arange(-len(CLOSE), 0, device=device)
        last = ids.gather(1, tail.clamp(min=0)).where(tail >= 0, tokens.pad)
        texts = tokenizer.batch_decode(last, clean_up_tokenization_spaces=False)
        return torch.tensor([CLOSE in text for text in texts], device=device)

    opening = spelled(OPEN)
    prompt = extended(prompt, opening, torch.ones_like(opening, dtype=torch.bool))
    plan = torch.full((len(prompt.mask), most), FREE, device=device)
    with torch.no_grad():
        prefix = prefill(model, prompt)
        free = replace(tokens, grammar=None)
        done = decode(
            model, prefix, free, plan, temperature, generator, stop=closed, language=language
        )
    keep = done.mask & ~torch.isin(done.ids, tokens.eos.to(device))
    texts = tokenizer.batch_decode(
        [row[kept].tolist() for row, kept in zip(done.ids, keep, strict=True)],
        clean_up_tokenization_spaces=False,
    )
    ends = torch.tensor([CLOSE in text for text in texts], device=device)
    closing = spelled(CLOSE)
    ids = torch.cat([done.ids, closing], dim=1)
    keep = torch.cat([keep, (~ends)[:, None].expand_as(closing)], dim=1)
    return extended(prompt, ids, keep), [text.partition(CLOSE)[0] for text in texts]


def extended(prompt: Prompt, ids: Tensor, keep: Tensor) -> Prompt:
    """The prompt with the kept ones of text tokens (B, S) at its end, padded on the left again."""
    mask = torch.cat([prompt.mask, keep], dim=1)
    place = keep.cumsum(1) - 1
    after = (prompt.next_position[:, None] + place).where(keep, 0)
    zeros = torch.zeros_like(ids)
    order = mask.long().argsort(dim=1, stable=True)  # padding first, the rest as it was
    order = order[:, int((~mask).sum(1).min()) :]
    positions = torch.cat([prompt.position_ids, after.expand(3, -1, -1)], dim=2)

    def ordered(before: Tensor, new: Tensor) -> Tensor:
        return torch.cat([before, new], dim=1).gather(1, order)

    return replace(
        prompt,
        input_ids=ordered(prompt.input_ids, ids),
        mask=mask.gather(1, order),
        image_mask=ordered(prompt.image_mask, zeros.bool()),
        mm_token_type_ids=ordered(prompt.mm_token_type_ids, zeros),
        position_ids=positions.gather(2, order.expand(3, -1, -1)),
        next_position=prompt.next_position + keep.sum(1),
    )
