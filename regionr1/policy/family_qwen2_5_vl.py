"""Qwen2.5-VL, whose interface is the one that all families share."""

from transformers import Qwen2_5_VLForConditionalGeneration

from regionr1.policy.family import Family

FAMILY = Family(Qwen2_5_VLForConditionalGeneration, "absolute_seen")
