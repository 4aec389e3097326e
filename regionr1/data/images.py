"""Opening image files: always an upright RGB image or a clear error, never a substitute."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from regionr1.errors import UserError

MAX_PIXELS = 80_000_000
"""Images above this many pixels are refused: decoding one would take over 240 MB."""

# What Pillow's decoders raise on broken files (its own errors derive from OSError).
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def read_image_bytes(path: Path, where: str) -> bytes:
    """Read a file's bytes.

    Args:
        path: The image file.
        where: What the image belongs to, for the error message.

    Raises:
        UserError: The file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{where}: image file {path} does not exist; restore it.") from None
    except OSError as error:
        raise UserError(f"{where}: image file {path} cannot be read ({error.strerror}).") from error


def open_image(source: Path | bytes, where: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to upright RGB, as `upright_rgb`.

    Args:
        source: A file, or the bytes of one.
        where: The sample key or the owner of the image, for the error message.
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        An RGB image; its size is the frame of every ``box_px``.

    Raises:
        UserError: Missing, unreadable, truncated or too large.
    """
    data = source if isinstance(source, bytes) else read_image_bytes(source, where)
    name = f"image {source}" if isinstance(source, Path) else "image"
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UserError(
                    f"{where}: {name} has {width}x{height} pixels, above the limit of "
                    f"{max_pixels:,}; shrink it first."
                )
            return upright_rgb(image)
    except _DECODE_ERRORS as error:
        # str(error) of an unidentified image names a BytesIO object, which helps nobody.
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "not an image format that Pillow knows" if unknown else str(error)
        raise UserError(f"{where}: {name} cannot be decoded ({reason}); replace it.") from error


def encoded_for_shard(data: bytes, image: Image.Image) -> tuple[str, bytes]:
    """Choose how a query image is stored in a shard.

    JPEG and PNG bytes are kept as published, so nothing is lost twice; every other format is
    stored as PNG, which every reader of the shards can open.

    Args:
        data: The bytes of the file.
        image: The decoded upright image.

    Returns:
        The extension (``query.jpg`` or ``query.png``) and the bytes to store.
    """
    if data[:3] == b"\xff\xd8\xff":
        return "query.jpg", data
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "query.png", data
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "query.png", buffer.getvalue()


def upright_rgb(image: Image.Image) -> Image.Image:
    """What the scorer and the policy see, which is what a viewer shows.

    EXIF orientation is applied, transparency is laid on white and 16-bit greys are scaled to 8
    bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips 16-bit values at 255 instead of scaling them: a white image.
        values = np.asarray(image, dtype=np.float32)
        scale = 255.0 / 65535.0 if values.max(initial=0.0) > 255.0 else 1.0
        levels = np.clip(values * scale, 0, 255).astype(np.uint8)
        return Image.fromarray(levels).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
