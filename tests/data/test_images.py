"""Opening images: always upright RGB, or one clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from regionr1.data.images import encoded_for_shard, open_image
from regionr1.errors import UserError


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    format = "TIFF" if mode == "CMYK" else "PNG"
    data = encoded(Image.new(mode, (5, 3)), format)
    image = open_image(data, "k")
    assert (image.mode, image.size) == ("RGB", (5, 3))


def test_transparency_is_laid_on_white() -> None:
    image = open_image(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "PNG"), "k")
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((2, 2), 0x8000, dtype=np.uint16))
    assert open_image(encoded(grey, "PNG"), "k").getpixel((0, 0)) == (127, 127, 127)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (30, 10)), "JPEG", exif=exif)
    assert open_image(data, "k").size == (10, 30)


def test_a_huge_image_is_refused_from_its_header() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk
    data += struct.pack(">I", zlib.crc32(chunk)) + b"\x00\x00\x00\x00IDAT"
    with pytest.raises(UserError, match="^sample-1: .*3600000000 pixels"):
        open_image(data, "sample-1")


def test_too_many_pixels() -> None:
    data = encoded(Image.new("RGB", (100, 50)), "PNG")
    with pytest.raises(UserError, match=r"sample-1: .*100x50 pixels.*4,999"):
        open_image(data, "sample-1", max_pixels=4999)
    assert open_image(data, "k", max_pixels=5000).size == (100, 50)


@pytest.mark.parametrize("keep", [0, 10, 400])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_truncated_files(keep: int, format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)[:keep]
    with pytest.raises(UserError, match="key-7: image cannot be decoded"):
        open_image(data, "key-7")


def test_missing_file_and_folder(tmp_path) -> None:
    with pytest.raises(UserError, match=r"row 3: image file .*no\.jpg does not exist"):
        open_image(tmp_path / "no.jpg", "row 3")
    with pytest.raises(UserError, match="row 3: .*cannot be read"):
        open_image(tmp_path, "row 3")


def test_shard_encoding_keeps_published_bytes() -> None:
    image = Image.new("RGB", (4, 4), "red")
    jpeg, png, webp = (encoded(image, f) for f in ("JPEG", "PNG", "WEBP"))
    assert encoded_for_shard(jpeg, image) == ("query.jpg", jpeg)
    assert encoded_for_shard(png, image) == ("query.png", png)
    extension, data = encoded_for_shard(webp, image)
    assert extension == "query.png"
    assert open_image(data, "k").tobytes() == image.tobytes()
