"""Open the base weights of a policy: the shipped one, a folder or a pinned hub model."""

from typing import Literal

from safetensors import SafetensorError
from transformers import (
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.utils import is_bitsandbytes_available

from regionr1.errors import UserError
from regionr1.policy.family import MODEL_TYPES, Family, family_of

Quantization = Literal["none", "nf4"]

UNQUANTIZED = [
    r"model\.(visual|vision_tower|multi_modal_projector|vision_model|connector)",
    "lm_head",
]
"""What makes the vision features, computed once per image, and the head keep their dtype."""


def load_base(
    source: str,
    revision: str | None,
    dtype: str,
    attn_implementation: str,
    quantization: Quantization = "none",
) -> Qwen2_5_VLForConditionalGeneration:
    """Load whole safetensors weights; never remote code, never a randomly filled gap.

    The return type names the interface: every family has Qwen2.5-VL's.

    Raises:
        UserError: Unsupported architecture, no or broken safetensors, missing weights, or
            quantization without bitsandbytes or of weights that it does not fit.
    """
    if quantization == "nf4" and not is_bitsandbytes_available():
        raise UserError(
            "quantization=nf4 needs bitsandbytes: pip install 'regionr1[quantization]', or set "
            "quantization=none"
        )
    family, config = _read_config(source, revision)
    try:
        model, info = family.model_class.from_pretrained(
            source,
            revision=revision,
            config=config,
            dtype=dtype,
            quantization_config=_nf4(config, dtype) if quantization == "nf4" else None,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{source}: cannot load safetensors weights ({error}); other formats are not read"
        ) from error
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"{source}: cannot build the policy ({error})") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        gaps = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise UserError(
            f"{source}: {len(gaps)} weights are missing or of another shape (first: {gaps[0]}); "
            "get the whole checkpoint"
        )
    if quantization == "nf4":
        _check_nf4(model)
    if family.adapt is not None:
        family.adapt(model)
    return model


def _read_config(source: str, revision: str | None) -> tuple[Family, PretrainedConfig]:
    """The family of a checkpoint and its config, read by the family's own class.

    Raises:
        UserError: There is no config, or it is of no family.
    """
    try:
        written, _ = PretrainedConfig.get_config_dict(source, revision=revision)
        if not written:
            raise OSError("there is no config.json")
        model_type = written.get("model_type")
        if model_type not in MODEL_TYPES:
            raise UserError(
                f"{source}: architecture {model_type!r} is not supported; use a Qwen2-VL, "
                "Qwen2.5-VL, Qwen3-VL, InternVL or SmolVLM policy (model_type "
                f"{', '.join(MODEL_TYPES)})"
            )
        family = family_of(model_type)
        return family, family.model_class.config_class.from_pretrained(source, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{source}: cannot read a model config ({error})") from error


def _nf4(config: PretrainedConfig, dtype: str) -> BitsAndBytesConfig:
    """QLoRA's setting: NF4 with its constants quantized too, computed in the model's dtype."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=config.dtype if dtype == "auto" else dtype,
        llm_int8_skip_modules=UNQUANTIZED,
    )


def _check_nf4(model: PreTrainedModel) -> None:
    """Keep out two ways in which bitsandbytes goes wrong on a CPU without saying so.

    On one with AVX512-BF16, the first pass in eval mode, here a rollout, would repack the weights
    for inference for good, and no gradient passes through the packed ones.

    Raises:
        UserError: Rows that are no whole blocks of 64, which 0.50.2 restores wrongly on a CPU.
    """
    from bitsandbytes.nn import Linear4bit

    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            if module.in_features % 64:
                raise UserError(
                    f"{model.name_or_path}: {name} has rows of {module.in_features} weights, and "
                    "nf4 needs a multiple of 64; set quantization=none"
                )
            module.support_avx512bf16_for_cpu = False
