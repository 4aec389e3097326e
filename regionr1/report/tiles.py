"""A picture in a square tile with boxes on it, and text that fits: what the galleries are made of.

Solid orange is the policy's box, dashed white over black the reference box.
"""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

INK, GREY, PAPER = (28, 28, 30), (110, 110, 115), (255, 255, 255)
POLICY, GOOD, BAD = (240, 120, 0), (24, 140, 60), (190, 40, 40)
TILE, THUMB, GAP = 272, 96, 14  # pixels
TEXT, SMALL = 15, 13


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib carries it: the same letters on every machine, accents included."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def fit_text(text: str, width: int, typeface: ImageFont.FreeTypeFont, lines: int = 1) -> list[str]:
    """Breaks a text into at most `lines` lines of `width` pixels; what does not fit ends in an
    ellipsis.
    """
    out = [""]
    for word in text.split():
        longer = f"{out[-1]} {word}".strip()
        if typeface.getlength(longer) <= width or not out[-1]:
            out[-1] = longer
        else:
            out.append(word)
    if len(out) > lines:
        out = [*out[: lines - 1], " ".join(out[lines - 1 :])]
    for i, line in enumerate(out):
        if typeface.getlength(line) > width:
            while line and typeface.getlength(line + "…") > width:
                line = line[:-1]
            out[i] = line.rstrip() + "…"
    return out


def rank_text(rank: float | None) -> str:
    """ "rank 3", or that the pool holds no positive."""
    return "no positive in pool" if rank is None or not math.isfinite(rank) else f"rank {int(rank)}"


def dashed_box(draw: ImageDraw.ImageDraw, box: Sequence[float], dash: int = 7) -> None:
    """A dashed rectangle, white over black, which shows on any picture."""
    x1, y1, x2, y2 = box
    for start, end in (
        ((x1, y1), (x2, y1)),
        ((x2, y1), (x2, y2)),
        ((x2, y2), (x1, y2)),
        ((x1, y2), (x1, y1)),
    ):
        length = math.dist(start, end)
        draw.line([start, end], fill=INK, width=3)
        for at in range(0, int(length), 2 * dash):
            a, b = at / length, min(at + dash, length) / length
            points = [
                tuple(s + (e - s) * t for s, e in zip(start, end, strict=True)) for t in (a, b)
            ]
            draw.line(points, fill=PAPER, width=2)  # type: ignore[arg-type]


def query_tile(
    image: Image.Image,
    box_px: Sequence[float] | None,
    reference_box_px: Sequence[float] | None,
    size: int = TILE,
) -> Image.Image:
    """The image fitted into a square, with the boxes drawn at the size shown so that lines stay
    crisp.
    """
    scale = size / max(image.size)
    shown = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top = (size - shown[0]) // 2, (size - shown[1]) // 2
    tile = Image.new("RGB", (size, size), (242, 242, 244))
    tile.paste(image.convert("RGB").resize(shown, Image.Resampling.LANCZOS), (left, top))
    draw = ImageDraw.Draw(tile)

    def place(box: Sequence[float]) -> list[float]:
        x1, y1, x2, y2 = (
            value * scale + offset
            for value, offset in zip(box, (left, top, left, top), strict=True)
        )
        low_x, low_y = max(x1, left), max(y1, top)
        return [
            low_x,
            low_y,
            max(low_x, min(x2, left + shown[0] - 1)),
            max(low_y, min(y2, top + shown[1] - 1)),
        ]

    if box_px is not None:
        draw.rectangle(place(box_px), outline=INK, width=5)
        draw.rectangle(place(box_px), outline=POLICY, width=4)
    if reference_box_px is not None:
        dashed_box(draw, place(reference_box_px))
    return tile
