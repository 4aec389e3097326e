"""The processor of a policy's folder, with or without torchvision.

transformers cannot build `Qwen2_5_VLProcessor` and its kin when torchvision is missing: their
video processor needs it, and the error that comes out names neither. Nor can it where the folder
holds no video processor. Still images need none, so this module then reads the same folder into an
image-and-text processor.
"""

from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from transformers import AutoProcessor, InternVLProcessor, SmolVLMProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from regionr1.errors import UserError

UNUSABLE = (OSError, ValueError, AttributeError, TypeError)
"""What transformers raises for a folder that lacks a part."""


class ImageTextProcessor(ProcessorMixin):
    """Qwen-VL's processor without video: PIL images and text in, the same tensors out."""

    return_mm_token_type_ids = True

    # ProcessorMixin reads this signature to learn which parts to load and to save.
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_token = getattr(tokenizer, "image_token", None) or "<|image_pad|>"
        self.video_token = getattr(tokenizer, "video_token", None) or "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(
        self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any
    ) -> str:
        """The placeholders of one image: one per merged patch."""
        patches = int(image_inputs["image_grid_thw"][image_idx].prod())
        return self.image_token * (patches // self.image_processor.merge_size**2)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the model takes, the types of its tokens among them."""
        return [*super().model_input_names, "mm_token_type_ids"]

    def to_dict(self) -> dict[str, Any]:
        """The saved form. It names the stock class, so that stock transformers opens the folder."""
        return {**super().to_dict(), "processor_class": "Qwen2_5_VLProcessor"}


class InternVLImageTextProcessor(InternVLProcessor):
    """InternVL's processor without video."""

    # as above: the parts that this signature names are loaded and saved
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, None, image_seq_length, chat_template)

    def to_dict(self) -> dict[str, Any]:
        """Returns the saved form, which names the stock class as every processor here does."""
        return {**super().to_dict(), "processor_class": "InternVLProcessor"}


class SmolVLMImageTextProcessor(SmolVLMProcessor):
    """SmolVLM's processor without video."""

    # as above; the stock one also insists on num2words, which it needs for videos only
    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_len: int = 169,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        def token(name: str, text: str) -> str:
            return getattr(tokenizer, name, None) or text

        self.fake_image_token = token("fake_image_token", "<fake_token_around_image>")
        self.image_token = token("image_token", "<image>")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.global_image_token = token("global_image_token", "<global-img>")
        self.video_token = token("video_token", "<video>")
        self.image_seq_len = image_seq_len
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """Renders a chat; the stock method would ask its video processor for frame rates."""
        return ProcessorMixin.apply_chat_template(self, conversation, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Returns the saved form, which names the stock class as every processor here does."""
        return {**super().to_dict(), "processor_class": "SmolVLMProcessor"}


def load_processor(
    folder: str,
    revision: str | None = None,
    still: type[ProcessorMixin] = ImageTextProcessor,
) -> ProcessorMixin:
    """Load the processor of a local folder or hub id and say which implementation is in use.

    Args:
        folder: Local folder or hub id.
        revision: Commit of the hub repository; None for a local folder.
        still: The family's processor without video.

    Returns:
        The stock AutoProcessor where it can be built, else `still`.

    Raises:
        UserError: The folder holds no usable processor.
    """
    source = dict(revision=revision, trust_remote_code=False)
    processor, missing = None, "torchvision is not installed"
    if is_torchvision_available():
        try:
            processor = AutoProcessor.from_pretrained(folder, **source)
        except (*UNUSABLE, ImportError) as error:
            # the folder holds no video processor (nor does the built-in policy's), or SmolVLM's
            # asks for num2words
            missing = f"the stock one cannot be loaded: {error}"
    name = "stock AutoProcessor"
    if processor is None:
        name = f"regionr1's image-and-text processor ({missing})"
        try:
            processor = still.from_pretrained(folder, **source)
        except UNUSABLE as error:
            raise UserError(
                f"{folder}: cannot load a processor ({error}); the folder needs "
                "an image processor config, a tokenizer and a chat template"
            ) from error
    rank_zero_info(f"processor: {name}")
    if not getattr(processor, "chat_template", None):
        raise UserError(f"{folder}: no chat template; add chat_template.jinja to the folder")
    return processor
