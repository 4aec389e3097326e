"""The toy family of CONTRIBUTING's recipe: Qwen2.5-VL under a name that transformers lacks."""

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from regionr1.policy.family import Family


class ToyConfig(Qwen2_5_VLConfig):
    """The same config, of a `model_type` of its own."""

    model_type = "toy_vl"


class ToyForConditionalGeneration(Qwen2_5_VLForConditionalGeneration):
    """The same model, opened from the toy's config."""

    config_class = ToyConfig


FAMILY = Family(ToyForConditionalGeneration, "relative_1000")
