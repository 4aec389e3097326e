"""From an image of any shape to the square that an encoder reads."""

from typing import Literal

import torch
from PIL import Image
from torch import Tensor

Fit = Literal["pad", "squash", "center_crop"]


def fit_square(image: Image.Image, side: int, fit: Fit, grey: tuple[int, int, int]) -> Image.Image:
    """An RGB image as a square of `side` pixels, resized bicubically.

    Args:
        image: Any size.
        side: Side of the square.
        fit: `pad` shows all of the image on a uniform ground, `squash` shows all of it distorted,
            `center_crop` keeps its shape and loses its ends (what CLIP's processor does).
        grey: Colour of the ground.
    """
    image = image.convert("RGB")
    if fit == "squash":
        return image.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
    longest, shortest = max(image.size), min(image.size)
    factor = side / (longest if fit == "pad" else shortest)
    size = tuple(max(1, round(length * factor)) for length in image.size)
    resized = image.resize((size[0], size[1]), Image.Resampling.BICUBIC, reducing_gap=3.0)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    if fit == "pad":
        square = Image.new("RGB", (side, side), grey)
        square.paste(resized, (left, top))
        return square
    return resized.crop((-left, -top, side - left, side - top))


def pixels_of(image: Image.Image) -> Tensor:
    """(3, H, W) uint8 pixels of an RGB image."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1)
