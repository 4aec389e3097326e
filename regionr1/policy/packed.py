"""Packed rows: a prompt and its G completions in one row, each completion blind to the others.

A row is [prompt | c1 | ... | cG]. Every completion sees the prompt and itself, and its positions go
on from the prompt's as if it were the only one; so its hidden states are those of a row of its own,
while the prompt is computed once. Nothing is cached, which is why gradient checkpointing may be on.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from regionr1.errors import UserError
from regionr1.policy.prompt import Prompt

PROMPT, PADDING = -1, -2


class Packing(NamedTuple):
    """Where the S packed tokens of B rows come from.

    Attributes:
        branch: (B, S) which completion a token belongs to; -2 for padding.
        place: (B, S) its place in that completion.
    """

    branch: Tensor
    place: Tensor


def pack(keep: Tensor) -> Packing:
    """Lay the kept tokens (B, G, T) of each query side by side, without the padding in between."""
    branches, length = keep.shape[1:]
    flat = keep.flatten(1)
    width = int(flat.sum(1).max())
    order = flat.logical_not().long().argsort(dim=1, stable=True)[:, :width]
    real = flat.gather(1, order)
    branch = torch.div(order, max(length, 1), rounding_mode="floor")
    return Packing(branch.where(real, PADDING), order % max(length, 1))


def packed_hidden(
    model: Qwen2_5_VLForConditionalGeneration, prompt: Prompt, ids: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor]:
    """Run B packed rows.

    Args:
        model: The policy.
        prompt: B prompts.
        ids: (B, G, T) token ids of the branches.
        keep: (B, G, T) bool, the tokens to run: the first so many of each branch.

    Returns:
        (B, hidden) at the last prompt token, and (B, G, T, hidden) at the branches' tokens, 0 where
        not kept.

    Raises:
        UserError: an attention implementation that takes no mask of our own.
    """
    packing = pack(keep)
    real = packing.branch != PADDING
    row = torch.arange(len(ids), device=ids.device)[:, None]
    branch = packing.branch.clamp(min=0)
    tokens = ids[row, branch, packing.place]
    embeds = torch.cat([prompt.embeddings(model), model.get_input_embeddings()(tokens)], dim=1)
    after = prompt.next_position[:, None] + packing.place
    positions = torch.cat([prompt.position_ids, after.expand(3, -1, -1)], dim=2)
    start = torch.where(prompt.mask, PROMPT, PADDING)
    output = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask={"full_attention": _mask(model, torch.cat([start, packing.branch], dim=1))},
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    width = prompt.mask.shape[1]
    hidden = output.new_zeros(*ids.shape, output.shape[-1])
    where = (row.expand_as(branch)[real], branch[real], packing.place[real])
    return output[:, width - 1], hidden.index_put(where, output[:, width:][real])


def _mask(model: Qwen2_5_VLForConditionalGeneration, branch: Tensor) -> Tensor:
    """Who sees whom among tokens (B, L) of these branches, as the attention in use wants it.

    A token sees the prompt and its own branch up to itself. Padding sees itself, so that no row of
    the softmax is empty, and is seen by nothing else.
    """
    kind = model.config.get_text_config()._attn_implementation
    length = branch.shape[1]
    place = torch.arange(length, device=branch.device)
    key, query = branch[:, None, :], branch[:, :, None]
    seen = (place[:, None] >= place) & ((key == PROMPT) | (key == query)) & (key != PADDING)
    seen = (seen | (place[:, None] == place))[:, None]
    if kind == "sdpa":
        return seen
    if kind == "eager":
        dtype = model.get_input_embeddings().weight.dtype
        return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    raise UserError(
        f"packed log-probabilities cannot mask {kind}: set attn_implementation to sdpa or eager, "
        "or logprob_path=two_pass"
    )
