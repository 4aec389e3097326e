"""The families of policies: which class opens a checkpoint, and in which frame it writes boxes.

All share one interface, Qwen2.5-VL's: `model.model.get_rope_index`, `get_image_features`,
`model.model.visual`, `model.model.language_model` on embeddings, `lm_head`. What a family lacks of
it, its file adds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, cast

from transformers import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from regionr1.algorithm.boxes import CoordFrame
from regionr1.policy.processor import ImageTextProcessor

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm")
"""By `model_type` of the checkpoint's config; each is `FAMILY` in the file `family_NAME.py`."""


@dataclass(frozen=True)
class Family:
    """One family of policies.

    Attributes:
        model_class: Opens its checkpoints.
        coordinates: The numbers that it was trained to write for a box; see `CoordFrame`.
        deepstack: Vision features enter its first layers too.
        adapt: Gives a loaded model the shared interface; None where it has it.
        processor: Reads its folder where torchvision is missing.
    """

    model_class: type[PreTrainedModel]
    coordinates: Literal["absolute_seen", "relative_1000"]
    deepstack: bool = False
    adapt: Callable[[Any], None] | None = None
    processor: type[ProcessorMixin] = ImageTextProcessor

    @property
    def frame(self) -> CoordFrame:
        """The coordinate frame in which the family writes boxes."""
        return CoordFrame(self.coordinates)


def family_of(model_type: str) -> Family:
    """The family of a checkpoint, by the `model_type` of its config; one of `MODEL_TYPES`."""
    return cast(Family, import_module(f"{__package__}.family_{model_type}").FAMILY)
