"""SmolVLM, which sees an image as tiles."""

from transformers import SmolVLMForConditionalGeneration

from regionr1.policy.family import Family
from regionr1.policy.processor import SmolVLMImageTextProcessor
from regionr1.policy.tile_models import adapt_smolvlm

FAMILY = Family(
    SmolVLMForConditionalGeneration,
    "relative_1000",
    adapt=adapt_smolvlm,
    processor=SmolVLMImageTextProcessor,
)
