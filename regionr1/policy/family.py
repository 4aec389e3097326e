"""The families of policies: which class opens a checkpoint, and in which frame it writes boxes.

All share one interface, Qwen2.5-VL's: `model.model.get_rope_index`, `get_image_features`,
`model.model.visual`, `model.model.language_model` on embeddings, `lm_head`. Qwen3-VL also feeds
vision features into its first layers (DeepStack), which `widen` folds into that interface; what
InternVL and SmolVLM lack of it is in `regionr1.policy.tile_models`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import (
    InternVLForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    SmolVLMForConditionalGeneration,
)
from transformers.processing_utils import ProcessorMixin

from regionr1.algorithm.boxes import CoordFrame
from regionr1.policy.processor import (
    ImageTextProcessor,
    InternVLImageTextProcessor,
    SmolVLMImageTextProcessor,
)
from regionr1.policy.tile_models import adapt_internvl, adapt_smolvlm


@dataclass(frozen=True)
class Family:
    """One family of policies.

    Attributes:
        model_class: Opens its checkpoints.
        coordinates: The numbers that it was trained to write for a box; see `CoordFrame`.
        deepstack: Vision features enter its first layers too.
        adapt: Gives a loaded model the shared interface; None where it has it.
        processor: Reads its folder where torchvision is missing.
    """

    model_class: type[PreTrainedModel]
    coordinates: Literal["absolute_seen", "relative_1000"]
    deepstack: bool = False
    adapt: Callable[[Any], None] | None = None
    processor: type[ProcessorMixin] = ImageTextProcessor

    @property
    def frame(self) -> CoordFrame:
        """The coordinate frame in which the family writes boxes."""
        return CoordFrame(self.coordinates)


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
        """The embedding's own weight."""
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


FAMILIES = {
    "qwen2_vl": Family(Qwen2VLForConditionalGeneration, "relative_1000"),
    "qwen2_5_vl": Family(Qwen2_5_VLForConditionalGeneration, "absolute_seen"),
    "qwen3_vl": Family(
        Qwen3VLForConditionalGeneration, "relative_1000", deepstack=True, adapt=widen
    ),
    "internvl": Family(
        InternVLForConditionalGeneration,
        "relative_1000",
        adapt=adapt_internvl,
        processor=InternVLImageTextProcessor,
    ),
    "smolvlm": Family(
        SmolVLMForConditionalGeneration,
        "relative_1000",
        adapt=adapt_smolvlm,
        processor=SmolVLMImageTextProcessor,
    ),
}
"""By `model_type` of the checkpoint's config."""
