"""The Qwen2-VL family."""

from transformers import Qwen2VLForConditionalGeneration

from regionr1.policy.family import Family

FAMILY = Family(Qwen2VLForConditionalGeneration, "relative_1000")
