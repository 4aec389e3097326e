"""A random Qwen2.5-VL folder of a few thousand weights, real in everything but size."""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
)

from regionr1.modules.family import FAMILIES
from regionr1.modules.processor import ImageTextProcessor

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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


def build_tokenizer(pieces: list[str]) -> PreTrainedTokenizerFast:
    """Every printable character is a token; so is each of `pieces`."""
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {
        token: index for index, token in enumerate([*SPECIAL, *dict.fromkeys([*pieces, *letters])])
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
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL,
    )


def build_tiny_policy(
    folder: Path,
    pieces: tuple[str, ...] = ("NO_CROP_NEEDED", '{"bbox_2d": ['),
    seed: int = 0,
    family: str = "qwen2_5_vl",
) -> Path:
    """Write an untrained policy; images are seen at 16-pixel cells, 32 x 32 to 64 x 64 in area."""
    tokenizer = build_tokenizer(list(pieces))
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
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
        ),
        vision_config=VISION[family],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = FAMILIES[family].model_class(config)
    with torch.no_grad():  # larger than the usual init, so that every input matters visibly
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
    model.save_pretrained(folder)
    images = Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, min_pixels=32 * 32, max_pixels=64 * 64
    )
    ImageTextProcessor(images, tokenizer, chat_template=TEMPLATE).save_pretrained(folder)
    return folder
