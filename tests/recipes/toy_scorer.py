"""The toy scorer of CONTRIBUTING's recipe: an image is its mean colour."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from regionr1.scorers.base import Scorer


class ToyScorer(Scorer):
    """Embeds the mean colour of an image, away from a middle grey.

    Args:
        grey: The colour that has no direction, 0 to 255.
    """

    dim = 3

    def __init__(self, grey: float = 127.0) -> None:
        super().__init__()
        self.grey = grey

    def fingerprint(self) -> str:
        """The grey decides every embedding."""
        return f"toy-{self.grey:g}"

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors (N, 3) float32."""
        box = Image.Resampling.BOX
        pixels = [image.convert("RGB").resize((1, 1), box).getpixel((0, 0)) for image in images]
        return torch.nn.functional.normalize(torch.tensor(pixels).reshape(-1, 3) - self.grey, dim=1)

    def embed_candidates(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Candidates are embedded as views are; their texts are not read."""
        return self.embed_images(images)
