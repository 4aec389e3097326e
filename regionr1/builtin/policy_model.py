"""Builds the built-in policy's folder: a small Qwen2.5-VL with its own tokenizer and processor.

The classes are transformers' own; only the sizes are small. Seen images have about 128 x 128 pixels
in patches of 16, which are not merged. Every number from 0 to 999 is one token, as in several large
tokenizers, so a box takes four choices.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

from regionr1.algorithm.answers import FULL_ANSWER, REGION_PREFIX, REGION_SUFFIX
from regionr1.files import whole_file
from regionr1.policy.processor import ImageTextProcessor

SPECIAL = tuple(
    f"<|{name}|>"
    for name in "endoftext im_start im_end vision_start vision_end image_pad video_pad".split()
)
NUMBERS = 1000
SEEN_PIXELS = 128 * 128
PATCH = 16
MERGE = 1
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(questions: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE learned from `questions`, with the answer grammar and numbers as tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["user", "assistant", *questions], trainer)
    grammar = (FULL_ANSWER, REGION_PREFIX, ", ", REGION_SUFFIX, *map(str, range(NUMBERS)))
    bpe.add_tokens([AddedToken(text, normalized=False) for text in grammar])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        additional_special_tokens=list(SPECIAL),
    )


def number_embeddings(width: int) -> torch.Tensor:
    """(NUMBERS, width) unit rows of sines and cosines, so that near numbers start out alike.

    A large language model knows the order of numbers; a small one would learn it from boxes.
    """
    wavelengths = torch.logspace(math.log10(8), math.log10(2 * NUMBERS), width // 2)
    phases = torch.arange(NUMBERS)[:, None] * (2 * math.pi / wavelengths)
    return torch.cat([phases.sin(), phases.cos()], 1) / math.sqrt(width / 2)


def build_policy(
    folder: Path,
    questions: Iterable[str],
    *,
    vision_width: int = 192,
    vision_depth: int = 6,
    width: int = 192,
    depth: int = 4,
    seed: int = 0,
) -> None:
    """Writes an untrained policy: config, tokenizer, processor and random weights.

    Args:
        folder: Where to write; created if absent.
        questions: Text to learn the tokenizer from.
        vision_width: Hidden size of the vision tower.
        vision_depth: Blocks of the vision tower.
        width: Hidden size of the language model.
        depth: Layers of the language model.
        seed: Decides the random weights.
    """
    tokenizer = build_tokenizer(questions)
    token = tokenizer.convert_tokens_to_ids
    heads = width // 32
    kv_heads = max(1, heads // 3)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": width * 8 // 3,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [4, 6, 6],
                "rope_theta": 10000.0,
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": vision_depth,
            "hidden_size": vision_width,
            "intermediate_size": vision_width * 5 // 2,
            "num_heads": vision_width // 48,
            "out_hidden_size": width,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "window_size": PATCH * MERGE * 4,
            # An image has few patches, so every block sees all of them.
            "fullatt_block_indexes": list(range(vision_depth)),
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        # Digits are in the byte alphabet already, so the numbers' ids are not one run.
        numbers = [token(str(n)) for n in range(NUMBERS)]
        model.get_input_embeddings().weight[numbers] = number_embeddings(width)
    model.save_pretrained(folder)
    processor = ImageTextProcessor(
        Qwen2VLImageProcessorPil(
            patch_size=PATCH,
            merge_size=MERGE,
            temporal_patch_size=2,
            size={"shortest_edge": (PATCH * MERGE * 4) ** 2, "longest_edge": SEEN_PIXELS},
        ),
        tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)


def save_weights(model: Qwen2_5_VLForConditionalGeneration, folder: Path) -> None:
    """Writes weights in half precision, which halves the package; they are used in float32."""
    state = {
        name: value.half().contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embeddings
    }
    with whole_file(folder / "model.safetensors", SafetensorError) as partial:
        save_file(state, partial, metadata={"format": "pt"})
