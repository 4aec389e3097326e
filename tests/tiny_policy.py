"""A random policy's folder of a few thousand weights, real in everything but size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    SmolVLMConfig,
    SmolVLMImageProcessorPil,
)

from regionr1.policy.family import family_of
from regionr1.policy.processor import ImageTextProcessor

QWEN_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
SMOLVLM_TOKENS = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
    "video_token": "<video>",
    "end_of_utterance_token": "<end_of_utterance>",
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TILE_TEMPLATES = {
    "internvl": TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n"),
    "smolvlm": (
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
}


CONFIGS = {"qwen2_vl": Qwen2VLConfig, "qwen2_5_vl": Qwen2_5_VLConfig, "qwen3_vl": Qwen3VLConfig}
VISION = {
    "qwen2_vl": dict(depth=2, embed_dim=16, hidden_size=32, num_heads=2, mlp_ratio=2, patch_size=8),
    "qwen2_5_vl": dict(
        depth=2,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        patch_size=8,
        spatial_merge_size=2,
        window_size=32,
        out_hidden_size=32,
        fullatt_block_indexes=[1],
    ),
    "qwen3_vl": dict(
        depth=3,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        patch_size=8,
        out_hidden_size=32,
        num_position_embeddings=64,
        deepstack_visual_indexes=[0],  # what enters after the last layer reaches no token
    ),
}


WIDE = dict(hidden_size=64, intermediate_size=128, num_attention_heads=8)


def build_tokenizer(
    pieces: list[str],
    special: list[str] = QWEN_TOKENS,
    eos: str = "<|im_end|>",
    named: dict[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """Every printable character is a token; so is each of `pieces` and of `special`."""
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {
        token: index for index, token in enumerate([*special, *dict.fromkeys([*pieces, *letters])])
    }
    escaped = "|".join(
        "".join("\\" + c if not c.isalnum() else c for c in piece) for piece in pieces
    )
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(f"{escaped}|[\\s\\S]" if escaped else "[\\s\\S]"), "isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=eos,
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
        **({} if named is None else {"extra_special_tokens": named}),
    )


def build_tiny_policy(
    folder: Path,
    pieces: tuple[str, ...] = ("NO_CROP_NEEDED", '{"bbox_2d": ['),
    seed: int = 0,
    family: str = "qwen2_5_vl",
    wide: bool = False,
) -> Path:
    """Write an untrained policy; images are seen at 16-pixel cells, 32 x 32 to 64 x 64 in area.

    InternVL and SmolVLM see tiles of 16 x 16 pixels, each 4 tokens. The rows of a `wide` one are
    whole blocks of 4-bit weights.
    """
    if family in TILE_TEMPLATES:
        return build_tile_policy(folder, list(pieces), seed, family, wide)
    tokenizer = build_tokenizer(list(pieces))
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in QWEN_TOKENS}
    head_dim = {"head_dim": 8} if family == "qwen3_vl" else {}
    config = CONFIGS[family](
        text_config=dict(
            vocab_size=len(tokenizer) + 3,  # as on the hub, the head is larger than the tokenizer
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
            bos_token_id=None,
            eos_token_id=ids["<|im_end|>"],
            pad_token_id=ids["<|endoftext|>"],
            **head_dim,
        )
        | (WIDE if wide else {}),
        vision_config=VISION[family] | ({"out_hidden_size": 64} if wide else {}),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    save_model(folder, config, seed, family)
    images = Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, min_pixels=32 * 32, max_pixels=64 * 64
    )
    ImageTextProcessor(images, tokenizer, chat_template=TEMPLATE).save_pretrained(folder)
    return folder


def build_tile_policy(folder: Path, pieces: list[str], seed: int, family: str, wide: bool) -> Path:
    """An InternVL with Qwen2, or a SmolVLM with Llama, as on the hub."""
    internvl = family == "internvl"
    named = INTERNVL_TOKENS if internvl else SMOLVLM_TOKENS
    eos = "<|im_end|>" if internvl else "<end_of_utterance>"
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()]
    tokenizer = build_tokenizer(pieces, special, eos, named)
    text = dict(
        model_type="qwen2" if internvl else "llama",
        vocab_size=len(tokenizer) + 3,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    ) | (WIDE if wide else {})
    vision = dict(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    )
    token = named["context_image_token" if internvl else "image_token"]
    config = (InternVLConfig if internvl else SmolVLMConfig)(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids(token),
        tie_word_embeddings=True,
        **({"image_seq_length": 4} if internvl else {"scale_factor": 2}),
    )
    save_model(folder, config, seed, family)
    if internvl:
        images = GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, max_patches=4)
        length = {"image_seq_length": 4}
    else:
        images = SmolVLMImageProcessorPil(
            size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
        )
        length = {"image_seq_len": 4}
    processor = family_of(family).processor(
        images, tokenizer, chat_template=TILE_TEMPLATES[family], **length
    )
    processor.save_pretrained(folder)
    return folder


def save_model(folder: Path, config: PreTrainedConfig, seed: int, family: str) -> None:
    """Random weights, larger than the usual init, so that every input matters visibly."""
    torch.manual_seed(seed)
    model = family_of(family).model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
    model.save_pretrained(folder)


def noise_images(sizes: Sequence[tuple[int, int]]) -> list[Image.Image]:
    """An image of random pixels for each (width, height), the same every time."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)) for w, h in sizes]
