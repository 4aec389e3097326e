"""Policies of a chosen size with random weights, to time steps on: nothing is downloaded.

Speed does not depend on what weights say. The tokenizer spells an answer in the same pieces as
Qwen2.5's, so that completions are as long as the real ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

from regionr1.builtin.policy_model import CHAT_TEMPLATE, SPECIAL
from regionr1.policy.processor import ImageTextProcessor

PIECES = ("NO", "_CR", "OP", "_NE", "EDED", '{"', "bbox", '":', " [", "]}")
PATCH, MERGE = 14, 2


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2.5-VL.

    Attributes:
        width: Hidden size of the language model.
        inner: Hidden size of its feed-forward layers.
        depth: Its layers.
        heads: Its attention heads.
        kv_heads: Its key and value heads.
        vocabulary: Its tokens.
        vision_width: Hidden size of the vision tower.
        vision_inner: Hidden size of its feed-forward layers.
        vision_depth: Its layers.
        vision_heads: Its attention heads.
        mrope: Frequencies for time, height and width; they add up to half a head.
    """

    width: int
    inner: int
    depth: int
    heads: int
    kv_heads: int
    vocabulary: int
    vision_width: int
    vision_inner: int
    vision_depth: int
    vision_heads: int
    mrope: tuple[int, int, int] = (16, 24, 24)


SHAPES = {
    "tiny": Shape(64, 128, 2, 2, 1, 512, 32, 64, 2, 2, (4, 6, 6)),
    "medium": Shape(512, 1376, 6, 8, 2, 8192, 256, 688, 4, 4, (8, 12, 12)),
    "3b": Shape(2048, 11008, 36, 16, 2, 151936, 1280, 3420, 32, 16),  # Qwen2.5-VL-3B
}


def build_shape(folder: Path, shape: Shape, dtype: torch.dtype = torch.float32) -> None:
    """Writes a folder that `CropPolicy` opens."""
    tokenizer = _tokenizer(shape.vocabulary)
    config = shape_config(shape, tokenizer.convert_tokens_to_ids)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    size = {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": 16384 * (PATCH * MERGE) ** 2}
    images = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, size=size)
    ImageTextProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE).save_pretrained(folder)


def shape_config(shape: Shape, token: Callable[[str], int]) -> Qwen2_5_VLConfig:
    """The config of a shape; `token` gives the ids of special tokens."""
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.width,
            "intermediate_size": shape.inner,
            "num_hidden_layers": shape.depth,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": list(shape.mrope),
                "rope_theta": 1e6,
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": shape.vision_depth,
            "hidden_size": shape.vision_width,
            "intermediate_size": shape.vision_inner,
            "num_heads": shape.vision_heads,
            "out_hidden_size": shape.width,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "window_size": 112,
            "fullatt_block_indexes": list(range(shape.vision_depth // 4, shape.vision_depth, 8)),
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Pieces of an answer, printable characters, and words that never occur to fill the rest."""
    letters = [*map(chr, range(32, 127)), "\n"]
    known = list(dict.fromkeys([*SPECIAL, *PIECES, *letters]))
    words = [*known, *(f"<unused {i}>" for i in range(size - len(known)))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<|endoftext|>"))
    escaped = "|".join("".join(f"\\x{ord(c):02x}" for c in piece) for piece in PIECES)
    split = pre_tokenizers.Split(Regex(f"{escaped}|[\\s\\S]"), "isolated")
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL),
    )
