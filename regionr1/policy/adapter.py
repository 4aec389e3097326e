"""LoRA on the policy: made, loaded and saved.

PEFT is imported where a policy gets its adapter: it brings bitsandbytes along where that is
installed, for which nobody should wait who only reads options.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from regionr1.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel

LANGUAGE_MODEL_LINEARS = (
    r".*(language|text)_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
)
"""In the names of every family: SmolVLM calls its language model text_model."""
PEFT_PREFIX = "base_model.model."


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
    from peft import LoraConfig, get_peft_model

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


RENAMED = (("model.layers.", "model.language_model.layers."), ("visual.", "model.visual."))
"""Where transformers before 4.52, and what was built on it, had the parts of a Qwen2-VL."""


def load_lora(base: Qwen2_5_VLForConditionalGeneration, folder: str) -> PeftModel:
    """Wrap the policy with a trained adapter, trainable further.

    PEFT fills what a file lacks with an untrained adapter and passes over what it has too much, so
    names, shapes and values are compared here. Names of before transformers 4.52 are mapped.

    Raises:
        UserError: The folder holds no safetensors adapter that fits this policy.
    """
    from peft import LoraConfig, PeftConfig, get_peft_model, set_peft_model_state_dict

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(folder) / name).is_file():
            raise UserError(f"{folder}: no {name}; give a folder that save_adapter wrote")
    try:
        config = PeftConfig.from_pretrained(folder)
        state = load_file(Path(folder) / "adapter_model.safetensors")
    except Exception as error:  # PEFT raises whatever the settings lead it to
        raise UserError(f"{folder}: this adapter cannot be read ({error})") from error
    if not isinstance(config, LoraConfig):
        raise UserError(f"{folder}: {config.peft_type} is no LoRA adapter; train one with LoRA")
    modules = {name for name, _ in base.named_modules()}
    state = {_todays_name(name, modules): value for name, value in state.items()}
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"{folder}: {broken[0]} holds values that are no numbers; train it again")
    adapted = {_module(name) for name in state}
    unknown = sorted(adapted - modules)
    if unknown:
        raise UserError(
            f"{folder}: this adapter does not fit the policy: there is no {unknown[0]} to adapt; "
            "use the model it was trained with"
        )
    kinds = {_layer(name) for name in adapted}
    lost = sorted(name for name in modules - adapted if _layer(name) in kinds)
    if lost and config.layers_to_transform is None:
        raise UserError(
            f"{folder}: this adapter does not fit the policy: nothing for {lost[0]}, though other "
            "layers have theirs; get the whole file, or use the model it was trained with"
        )
    config.inference_mode = False
    try:
        # The names in the file tell best what was adapted: a suffix may match more elsewhere.
        if not isinstance(config.target_modules, str) or adapted != {
            name for name in modules if re.fullmatch(config.target_modules, name)
        }:
            config.target_modules = adapted
        model = get_peft_model(base, config)
    except Exception as error:  # as above
        raise UserError(f"{folder}: this adapter does not fit the policy ({error})") from error
    own = {name: value.shape for name, value in adapter_state(model).items()}
    wrong = sorted(
        name
        for name in own.keys() | state
        if name not in state or own.get(name) != state[name].shape
    )
    if wrong:
        raise UserError(
            f"{folder}: this adapter does not fit the policy: {wrong[0]} is missing or of another "
            "shape; use the model it was trained with"
        )
    set_peft_model_state_dict(model, state)
    return model


def _module(name: str) -> str:
    """The module that a weight of an adapter belongs to, by the name of the weight."""
    return re.sub(r"\.(lora_[AB]|lora_magnitude_vector)\b.*$", "", name).removeprefix(PEFT_PREFIX)


def _layer(module: str) -> str:
    """A module's name without the number of its layer."""
    return re.sub(r"\.\d+\.", ".#.", module)


def _todays_name(name: str, modules: set[str]) -> str:
    """A weight's name in this transformers, where the policy has its module under a newer name."""
    if _module(name) in modules:
        return name
    for old, new in RENAMED:
        renamed = re.sub(rf"^{re.escape(PEFT_PREFIX + old)}", PEFT_PREFIX + new, name)
        if renamed != name and _module(renamed) in modules:
            return renamed
    return name


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """The adapter's weights under PEFT's names."""
    from peft import get_peft_model_state_dict

    # "auto" would ask the hub whether the vocabulary was resized
    return get_peft_model_state_dict(model, save_embedding_layers=False)
