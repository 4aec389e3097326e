"""InternVL, which sees an image as tiles."""

from transformers import InternVLForConditionalGeneration

from regionr1.policy.family import Family
from regionr1.policy.processor import InternVLImageTextProcessor
from regionr1.policy.tile_models import adapt_internvl

FAMILY = Family(
    InternVLForConditionalGeneration,
    "relative_1000",
    adapt=adapt_internvl,
    processor=InternVLImageTextProcessor,
)
