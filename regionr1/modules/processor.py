"""The processor of a Qwen-VL folder, with or without torchvision.

transformers cannot build `Qwen2_5_VLProcessor` and its kin when torchvision is missing: their
video processor needs it, and the error that comes out names neither. Still images need no video
processor, so without torchvision this module reads the same folder into an image-and-text
processor.
"""

from lightning.pytorch.utilities import rank_zero_info
from transformers import AutoProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from regionr1.errors import UserError


class ImageTextProcessor(ProcessorMixin):
    """Qwen-VL's processor without video: PIL images and text in, the same tensors out."""

    return_mm_token_type_ids = True

    # ProcessorMixin reads this signature to learn which parts to load and to save.
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token = getattr(tokenizer, "image_token", None) or "<|image_pad|>"
        self.video_token = getattr(tokenizer, "video_token", None) or "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """The placeholders of one image: one per merged patch."""
        patches = int(image_inputs["image_grid_thw"][image_idx].prod())
        return self.image_token * (patches // self.image_processor.merge_size**2)

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "mm_token_type_ids"]

    def to_dict(self) -> dict:
        """The saved form. It names the stock class, so that stock transformers opens the folder."""
        return {**super().to_dict(), "processor_class": "Qwen2_5_VLProcessor"}


def load_processor(folder: str, revision: str | None = None) -> ProcessorMixin:
    """Load the processor of a local folder or hub id and say which implementation is in use.

    Args:
        folder: Local folder or hub id.
        revision: Commit of the hub repository; None for a local folder.

    Returns:
        The stock AutoProcessor when torchvision is installed, else `ImageTextProcessor`.

    Raises:
        UserError: The folder holds no usable processor.
    """
    stock = is_torchvision_available()
    source = AutoProcessor if stock else ImageTextProcessor
    try:
        processor = source.from_pretrained(folder, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{folder}: cannot load a Qwen-VL processor ({error}); the folder needs "
            "an image processor config, a tokenizer and a chat template"
        ) from error
    rank_zero_info(
        "processor: stock AutoProcessor (torchvision is installed)"
        if stock
        else "processor: regionr1's PIL image-and-text processor (torchvision is not installed)"
    )
    if not getattr(processor, "chat_template", None):
        raise UserError(f"{folder}: no chat template; add chat_template.jinja to the folder")
    return processor
