"""Qwen3-VL, which feeds vision features into its first layers too (DeepStack)."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Qwen3VLForConditionalGeneration

from regionr1.policy.family import Family


class WideEmbedding(nn.Module):
    """Token embeddings with room beside them for the features of the first layers.

    Args:
        embedding: The model's own embedding, shared and not copied.
        extra: Numbers beside each embedding, 0 for a text token.
    """

    def __init__(self, embedding: nn.Embedding, extra: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.extra = extra

    @property
    def weight(self) -> Tensor:
        """Return the weight of the wrapped embedding, which the output layer may be tied to."""
        return self.embedding.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embeds token ids (...,) as (..., hidden + extra), zeros in the room beside them."""
        return pad(self.embedding(input_ids), (0, self.extra))


def widen(model: Any) -> None:
    """Let a DeepStack model carry the features of its first layers beside each embedding.

    Afterwards `get_image_features` returns features of (1 + L) * hidden numbers for L layers,
    `get_input_embeddings` gives text tokens zeros there, and the language model takes both apart
    again. So a prompt's embeddings can be repeated, selected and joined like any model's, and no
    feature can be left behind on the way. The model's own `forward` and `generate` must not be
    used then.
    """
    hidden = model.config.get_text_config().hidden_size
    layers = len(model.config.vision_config.deepstack_visual_indexes)
    language = model.model.language_model
    own_features, own_forward = model.get_image_features, language.forward
    embedding = WideEmbedding(model.get_input_embeddings(), layers * hidden)

    def get_image_features(pixel_values: Tensor, image_grid_thw: Tensor, **kwargs: Any) -> Any:
        found = own_features(pixel_values, image_grid_thw, **kwargs)
        images = zip(found.pooler_output, *found.deepstack_features, strict=True)
        return SimpleNamespace(pooler_output=tuple(torch.cat(parts, dim=-1) for parts in images))

    def forward(*, inputs_embeds: Tensor, **kwargs: Any) -> Any:
        first, *deeper = inputs_embeds.split(hidden, dim=-1)
        everywhere = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
        return own_forward(
            inputs_embeds=first,
            visual_pos_masks=everywhere,  # what is added to a text token is 0
            deepstack_visual_embeds=[features.flatten(0, 1) for features in deeper],
            **kwargs,
        )

    model.get_image_features = get_image_features
    model.get_input_embeddings = lambda: embedding
    language.forward = forward


FAMILY = Family(Qwen3VLForConditionalGeneration, "relative_1000", deepstack=True, adapt=widen)
