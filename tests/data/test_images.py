"""Opening images: always upright RGB, or one clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from regionr1.data.images import open_image, stored_image
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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_applied_as_pillow_does(orientation: int, format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), format, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(np.asarray(open_image(data, "k")), upright)


def test_an_exif_tag_of_a_wrong_type_is_nothing_to_a_viewer() -> None:
    """Orientation 6, and XResolution as text, as some editors write it."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x011A, 2, 8, 38)
    tiff = b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + b"72.0dpi\0"
    data = encoded(Image.new("RGB", (30, 10)), "JPEG", exif=b"Exif\0\0" + tiff)
    assert open_image(data, "k").size == (10, 30)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"nonsense"])
def test_a_damaged_exif_block_is_passed_over(exif: bytes) -> None:
    assert open_image(encoded(Image.new("RGB", (30, 10)), "JPEG", exif=exif), "k").size == (30, 10)


@pytest.mark.parametrize("most", [1.0, 255.0, 65535.0])
def test_float_images_are_grey_not_black(most: float) -> None:
    values = np.array([[0.0, most / 2, most]], dtype=np.float32)
    image = open_image(encoded(Image.fromarray(values), "TIFF"), "k")
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 127, 255]


@pytest.mark.parametrize("bad", [-0.5, np.nan, np.inf])
def test_float_images_of_no_grey_are_refused(bad: float) -> None:
    data = encoded(Image.fromarray(np.array([[bad]], dtype=np.float32)), "TIFF")
    with pytest.raises(UserError, match="k: image cannot be decoded .*negative or no numbers"):
        open_image(data, "k")


@pytest.mark.parametrize("format", ["EPS", "DDS", "TGA", "ICO"])
def test_only_named_formats_are_opened(format: str) -> None:
    with pytest.raises(UserError, match="k: image cannot be decoded .none of JPEG.*; replace it"):
        open_image(encoded(Image.new("RGB", (16, 16)), format), "k")


@settings(max_examples=300, deadline=None)
@given(
    format=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    kept=st.floats(0.2, 1.0),
)
def test_damaged_bytes_are_an_image_or_one_sentence(format, flips, kept) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 9, 3), dtype=np.uint8)
    data = bytearray(encoded(Image.fromarray(pixels), format))
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    try:
        image = open_image(bytes(data[: int(kept * len(data))]), "k")
    except UserError as error:
        assert str(error).startswith("k: image ")
    else:
        assert image.mode == "RGB"


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
    assert stored_image(jpeg, image) == ("query.jpg", jpeg)
    assert stored_image(png, image) == ("query.png", png)
    extension, data = stored_image(webp, image)
    assert extension == "query.png"
    assert open_image(data, "k").tobytes() == image.tobytes()
