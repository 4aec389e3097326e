"""InternVL and SmolVLM, which see an image as square tiles, behind Qwen2.5-VL's interface.

Their processors resize an image, cut it into tiles of one size and add a last tile that shows the
whole image; an image of one tile is that tile. Here `image_grid_thw` is (tiles, 1, 1) for each
image, whose product splits `pixel_values` (tiles, 3, height, width) into images just as it splits
Qwen's patches. Positions are plain text positions, the same in all three rows.

Both write boxes in thousandths of the image's sides (`relative_1000`). InternVL was trained so: see
"Grounding / Detection Data" in its documentation
(https://internvl.readthedocs.io/en/latest/get_started/chat_data_format.html) and
`internvl_chat/eval/refcoco/evaluate_grounding.py` in its repository, which divides by 1000. For
SmolVLM no grounding convention is published; thousandths are this project's choice, because they
mean the same however many tiles the processor makes.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from regionr1.errors import UserError


class TileTower(nn.Module):
    """The vision encoder and the projection after it as one module: all that makes the features.

    Args:
        encode: (tiles, 3, height, width) -> (tiles, tokens, hidden).
        parts: The modules that it uses, shared with the model and not copied.
        config: The whole model's: the projection's settings stand beside the vision config.
    """

    def __init__(
        self, encode: Callable[[Tensor], Tensor], parts: list[nn.Module], config: Any
    ) -> None:
        super().__init__()
        self.encode = encode
        self.parts = nn.ModuleList(parts)
        self.config = config

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tower's weights."""
        return next(self.parameters()).dtype

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Computes the features (tiles, tokens, hidden) of pixels (tiles, 3, side, side)."""
        return self.encode(pixel_values.to(self.dtype))


def adapt_internvl(model: Any) -> None:
    """Give an `InternVLForConditionalGeneration` the interface of Qwen2.5-VL.

    Raises:
        UserError: A language model with sliding attention.
    """
    inner = model.model

    def encode(pixel_values: Tensor) -> Tensor:
        return inner.get_image_features(pixel_values, return_dict=True).pooler_output

    _adapt(model, encode, [inner.vision_tower, inner.multi_modal_projector], inner.language_model)


def adapt_smolvlm(model: Any) -> None:
    """Give a `SmolVLMForConditionalGeneration` the interface of Qwen2.5-VL.

    Raises:
        UserError: A language model with sliding attention.
    """
    inner = model.model

    def encode(pixel_values: Tensor) -> Tensor:
        # not get_image_features, which drops a tile of zeros as padding: here every tile is real
        return inner.connector(inner.vision_model(pixel_values).last_hidden_state)

    _adapt(model, encode, [inner.vision_model, inner.connector], inner.text_model)


def _adapt(
    model: Any, encode: Callable[[Tensor], Tensor], parts: list[nn.Module], language: Any
) -> None:
    kinds = getattr(language.config, "layer_types", None) or ["full_attention"]
    if set(kinds) != {"full_attention"}:
        raise UserError(
            f"{model.name_or_path}: its language model has {', '.join(sorted(set(kinds)))} layers, "
            "and only full attention is supported"
        )
    tower = TileTower(encode, parts, model.config)
    own_forward = language.forward

    def get_image_features(pixel_values: Tensor, image_grid_thw: Tensor) -> Any:
        images = tower(pixel_values).split(image_grid_thw.prod(-1).tolist())
        return SimpleNamespace(pooler_output=tuple(tiles.flatten(0, 1) for tiles in images))

    def forward(*, attention_mask: Any = None, position_ids: Any = None, **kwargs: Any) -> Any:
        # Llama takes no masks by kind of layer, and none of these positions in three rows
        if isinstance(attention_mask, dict):
            attention_mask = attention_mask["full_attention"]
        if position_ids is not None and position_ids.ndim == 3:
            position_ids = position_ids[0]
        return own_forward(attention_mask=attention_mask, position_ids=position_ids, **kwargs)

    model.get_image_features = get_image_features
    language.forward = forward
    # Past nn.Module's registration: it would give the same weights a second name, and adapters and
    # checkpoints keep the names that stock transformers reads.
    vars(model.model).update(visual=tower, language_model=language, get_rope_index=get_rope_index)


def get_rope_index(input_ids: Tensor, attention_mask: Tensor, **_: object) -> tuple[Tensor, None]:
    """(3, B, P) positions, counting the tokens of each row that are not padding."""
    positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    return positions.expand(3, -1, -1), None


def tiled_inputs(inputs: dict[str, Tensor], image_token_id: int) -> dict[str, Tensor]:
    """What a tile model's processor returned, under Qwen's names.

    Args:
        inputs: input_ids and attention_mask (B, P), and pixel_values: of InternVL (tiles, 3,
            height, width), of SmolVLM (B, most tiles, 3, height, width) filled up with empty tiles,
            which its pixel_attention_mask tells.
        image_token_id: What stands for one vision feature. The stock processors either mark none or
            mark the tokens around an image too.

    Returns:
        input_ids, attention_mask, mm_token_type_ids, pixel_values (tiles, 3, height, width) and
        image_grid_thw (B, 3), each row (tiles, 1, 1).

    Raises:
        UserError: Image tokens that are not shared out evenly among the tiles, or a padded tile.
    """
    pixels = inputs["pixel_values"]
    types = (inputs["input_ids"] == image_token_id).long()
    tokens = types.sum(-1)
    if pixels.ndim == 5:
        shown = inputs.get("pixel_attention_mask")
        shown = pixels.new_ones(pixels[:, :, 0].shape) if shown is None else shown
        real = shown.flatten(2).any(-1)
        if not shown[real].all():
            raise UserError("the processor padded a tile: use tiles that the image fills")
        pixels, tiles = pixels[real], real.sum(-1)
    else:
        tiles = tokens * len(pixels) // tokens.sum().clamp(min=1)
    if not torch.equal(tiles * tokens.sum(), tokens * len(pixels)) or tiles.min() < 1:
        raise UserError(
            f"{tokens.tolist()} image tokens for {len(pixels)} tiles: the processor's image "
            "sequence length does not fit, or its tokenizer lacks the image token"
        )
    return {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "mm_token_type_ids": types,
        "pixel_values": pixels,
        "image_grid_thw": torch.stack(
            [tiles, tiles.new_ones(len(tiles)), tiles.new_ones(len(tiles))], -1
        ),
    }
