"""One prompt row per query: text and image turned into model inputs, whatever G is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.processing_utils import ProcessorMixin

from regionr1.errors import UserError
from regionr1.policy.tile_models import tiled_inputs
from regionr1.policy.vision_cache import VisionCache, image_features


@dataclass
class Prompt:
    """Left-padded model inputs of B queries, one image each.

    Attributes:
        input_ids: (B, P) token ids.
        mask: (B, P) bool, False on padding.
        image_mask: (B, P) bool, True where a vision feature stands.
        mm_token_type_ids: (B, P) 0 text, 1 image.
        position_ids: (3, B, P) M-RoPE positions (time, height, width).
        next_position: (B,) the position, equal in all three rows, of the first completion token.
        image_grid_thw: (B, 3) patches of each image, or its tiles; see
            `regionr1.policy.tile_models`.
        seen_hw: (B, 2) height and width in pixels of the image that the model saw; of tiles, of the
            one that shows the whole image.
        features: (sum of image tokens, hidden) vision features, constant; None if the tower trains.
        pixel_values: What the tower is shown by every pass, if it trains.
    """

    input_ids: Tensor
    mask: Tensor
    image_mask: Tensor
    mm_token_type_ids: Tensor
    position_ids: Tensor
    next_position: Tensor
    image_grid_thw: Tensor
    seen_hw: Tensor
    features: Tensor | None
    pixel_values: Tensor | None = None

    def embeddings(self, model: Qwen2_5_VLForConditionalGeneration) -> Tensor:
        """(B, P, hidden) token embeddings with the vision features in their places."""
        embedded = model.get_input_embeddings()(self.input_ids)
        features = self.features
        if features is None:
            assert self.pixel_values is not None
            rows = image_features(model, self.pixel_values, self.image_grid_thw)
            features = torch.cat(list(rows))
            check_count(self.image_mask, features)
        where = self.image_mask.unsqueeze(-1)
        return embedded.masked_scatter(where, features.to(embedded.dtype))


def process(
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    prompt: str,
    system: str = "",
) -> dict[str, Tensor]:
    """Run the image processor and the tokenizer once per query.

    Args:
        processor: As `regionr1.policy.processor.load_processor` returns it.
        images: B images.
        questions: B questions.
        prompt: The user's message; `{question}` is replaced.
        system: A system message before it; none where empty.

    Returns:
        input_ids, attention_mask, mm_token_type_ids (B, P) left-padded, pixel_values,
        image_grid_thw (B, 3); all on the CPU. Nothing is ever truncated.

    Raises:
        UserError: Nothing to process, a question holding a vision token, an image that cannot be
            resized, or image tokens that do not fit the tiles.
    """
    if not images or len(images) != len(questions):
        raise UserError(f"{len(images)} images and {len(questions)} questions: need as many, >= 1")
    for index, question in enumerate(questions):
        for token in (processor.image_token, processor.video_token):
            if token in question:  # the question itself may be a stranger's, and long
                raise UserError(f"question {index} holds the vision token {token}: remove it")
    before = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    texts = [
        processor.apply_chat_template(
            [
                *before,
                {
                    "role": "user",
                    "content": [
                        {"type": "image"},
                        # replace, not format: prompts hold JSON braces
                        {"type": "text", "text": prompt.replace("{question}", question)},
                    ],
                },
            ],
            tokenize=False,
            add_generation_prompt=True,
        )
        for question in questions
    ]
    try:
        inputs = processor(
            images=[[image] for image in images],  # SmolVLM wants them prompt by prompt
            text=texts,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
    except ValueError as error:
        sizes = [image.size for image in images]
        raise UserError(f"cannot process images of sizes {sizes}: {error}") from error
    if "image_grid_thw" in inputs:
        return dict(inputs)
    return tiled_inputs(dict(inputs), processor.image_token_id)


def seen_sizes(processor: ProcessorMixin, inputs: dict[str, Tensor]) -> Tensor:
    """(B, 2) height and width of the images as the processor made them, never worked out again."""
    grid, pixels = inputs["image_grid_thw"], inputs["pixel_values"]
    if pixels.ndim == 4:  # tiles, all of one size
        return torch.tensor(pixels.shape[-2:]).expand(len(grid), -1)
    return grid[:, 1:] * processor.image_processor.patch_size


def mrope_positions(model: Qwen2_5_VLForConditionalGeneration, inputs: dict[str, Tensor]) -> Tensor:
    """(3, B, P) positions, computed from the inputs and never from the model's cached deltas.

    Raises:
        UserError: `mm_token_type_ids` is missing. transformers would silently give image tokens
            one-dimensional text positions, and every log-probability would be wrong.
    """
    if inputs.get("mm_token_type_ids") is None:
        raise UserError(
            "the processor returned no mm_token_type_ids, without which image positions are "
            "silently wrong: use regionr1.policy.processor.load_processor"
        )
    positions, _ = model.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    return positions


def check_count(image_mask: Tensor, features: Tensor) -> None:
    """Refuses image tokens (B, P) that are not as many as the features."""
    if int(image_mask.sum()) != len(features):
        raise UserError(
            f"{int(image_mask.sum())} image tokens for {len(features)} vision features: the "
            "processor's sizes differ from the model's"
        )


def build_prompt(
    model: Qwen2_5_VLForConditionalGeneration,
    inputs: dict[str, Tensor],
    seen_hw: Tensor,
    vision: VisionCache | None,
) -> Prompt:
    """Join processed inputs, positions and vision features on the model's device.

    Args:
        model: The policy.
        inputs: As `process` returns them.
        seen_hw: As `seen_sizes` returns them.
        vision: Of the frozen tower; None if the tower trains, and every pass shows it the pixels.

    Raises:
        UserError: No `mm_token_type_ids`, or as many image tokens as features is not the case.
    """
    positions = mrope_positions(model, inputs)  # on the CPU: it loops over rows
    device = model.get_input_embeddings().weight.device
    grid = inputs["image_grid_thw"].to(device)
    types = inputs["mm_token_type_ids"]
    features = None
    if vision is not None:
        features = vision.features(inputs["pixel_values"], inputs["image_grid_thw"])
        check_count(types == 1, features)
    cpu = Prompt(
        input_ids=inputs["input_ids"],
        mask=inputs["attention_mask"].bool(),
        image_mask=types == 1,
        mm_token_type_ids=types,
        position_ids=positions,
        next_position=positions.amax(dim=(0, 2)) + 1,  # padding stands at position 0
        image_grid_thw=grid,
        seen_hw=seen_hw,
        features=features,
        pixel_values=inputs["pixel_values"] if vision is None else None,
    )
    present = {name: value for name, value in vars(cpu).items() if value is not None}
    return replace(cpu, **{name: value.to(device) for name, value in present.items()})
