"""LoRA on the policy: made, loaded and saved."""

import re
from collections.abc import Mapping
from pathlib import Path

from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from regionr1.errors import UserError

LANGUAGE_MODEL_LINEARS = (
    r".*(language|text)_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
)
"""In the names of every family: SmolVLM calls its language model text_model."""


def add_lora(
    base: Qwen2_5_VLForConditionalGeneration,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str,
) -> PeftModel:
    """Wrap the policy with LoRA; everything else is frozen.

    Raises:
        UserError: `targets` matches nothing, or a number is out of bounds.
    """
    if rank < 1:
        raise UserError(f"lora_rank must be at least 1, not {rank}")
    if not 0 <= dropout < 1:
        raise UserError(f"lora_dropout must be at least 0 and below 1, not {dropout}")
    lora = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, bias="none"
    )
    try:
        return get_peft_model(base, lora)
    except (ValueError, re.error) as error:
        raise UserError(f"lora_targets {targets!r}: {error}") from error


def load_lora(base: Qwen2_5_VLForConditionalGeneration, folder: str) -> PeftModel:
    """Wrap the policy with a trained adapter, trainable further.

    Raises:
        UserError: The folder holds no safetensors adapter that fits this policy.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(folder) / name).is_file():
            raise UserError(f"{folder}: no {name}; give a folder that save_adapter wrote")
    try:
        return PeftModel.from_pretrained(base, folder, is_trainable=True)
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: this adapter does not fit the policy ({error})") from error


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """The adapter's weights under PEFT's names."""
    # "auto" would ask the hub whether the vocabulary was resized
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def load_adapter_state(model: PeftModel, state: Mapping[str, Tensor]) -> None:
    """Load what `adapter_state` returned.

    Raises:
        UserError: The names or shapes are not this adapter's.
    """
    own = {name: value.shape for name, value in adapter_state(model).items()}
    if own != {name: value.shape for name, value in state.items()}:
        raise UserError(
            "the checkpoint's adapter has other layers or another rank than this policy: use the "
            "model and lora_* settings it was trained with"
        )
    set_peft_model_state_dict(model, dict(state))
