"""Opening image files: always an upright RGB image or a clear error, never a substitute."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from regionr1.errors import UserError
from regionr1.files import refused

MAX_PIXELS = 80_000_000
"""Images above this many pixels are refused: decoding one would take over 240 MB."""

MAX_RATIO = 200
"""Qwen's image processor refuses images with a side beyond so many times the other."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The formats that are opened, by Pillow's names. Others run programs (EPS starts Ghostscript) or
are decoders that few people use and nobody attacks but on purpose."""

_ORIENTATION = 0x0112  # the EXIF tag
_ON_ITS_SIDE = (5, 6, 7, 8)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
        raise refused(f"{where}: image file {path}", error) from error


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
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UserError(
                    f"{where}: {name} has {width}x{height} pixels, above the limit of "
                    f"{max_pixels:,}; shrink it first."
                )
            return upright_rgb(image)
    except (UserError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:  # its text names a BytesIO object
        raise UserError(
            f"{where}: {name} cannot be decoded (none of {', '.join(FORMATS)}); replace it."
        ) from error
    except Exception as error:  # decoders of damaged bytes raise whatever they stumble over
        reason = str(error) or type(error).__name__
        raise UserError(f"{where}: {name} cannot be decoded ({reason}); replace it.") from error


def upright_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an image as it will be seen, from its header alone.

    Returns:
        None where it cannot be told, as for a file that is missing or damaged.

    Raises:
        MachineError: The machine lets it not be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            return (height, width) if _orientation(image) in _ON_ITS_SIDE else (width, height)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno is None:  # Pillow's own, of a damaged file
            return None
        raise refused(path, error) from error
    except Exception:  # decoders of damaged bytes raise whatever they stumble over
        return None


def extreme(width: int, height: int) -> bool:
    """Whether an image is so long and thin that policies refuse it."""
    return max(width, height) > MAX_RATIO * min(width, height)


def stored_image(data: bytes, image: Image.Image) -> tuple[str, bytes]:
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

    EXIF orientation is applied, transparency is laid on white, 16-bit greys are scaled to 8 bits,
    and so are floats, which TIFF files hold in 0..1 or in 0..255.

    Raises:
        ValueError: Values of a float image are negative or no numbers.
    """
    image.load()
    turn = _UPRIGHT.get(_orientation(image) or 1)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips what is above 255 instead of scaling it, and cuts fractions to black.
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all() or values.min(initial=0.0) < 0:
            raise ValueError("its values are negative or no numbers")
        most = float(values.max(initial=0.0))
        if most > 255.0:
            values = values * (255.0 / max(65535.0, most))
        elif image.mode == "F" and most <= 1.0:
            values = values * 255.0
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 1 to 8; None where there is none that can be read.

    Only this tag is looked at: other tags of a wrong type, which some editors write, are nothing
    to a viewer, and `ImageOps.exif_transpose` would fail on them.
    """
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # a damaged EXIF block, which viewers pass over
        return None
    return value if isinstance(value, int) else None
