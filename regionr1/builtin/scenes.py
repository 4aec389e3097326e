"""Paints scenes: grounds, things pasted where they fit, framed pictures, portraits."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from regionr1.builtin import landscapes
from regionr1.builtin.artwork import drawings

Box = tuple[int, int, int, int]  # xyxy in scene pixels
APART = 0.12  # at most so much of the smaller of two things may lie behind the other
FRAMES = ((250, 248, 240), (92, 62, 40), (40, 40, 46), (214, 178, 92))


def background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A cluttered background: a muted colour gradient, soft and hard shapes, and fine noise."""

    def muted(*shape: int) -> np.ndarray:
        colours = rng.integers(0, 256, (*shape, 3))
        return (0.6 * colours.mean(-1, keepdims=True) + 0.4 * colours + 20).clip(0, 255)

    corners = muted(2, 2).astype(np.uint8)
    image = Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    side = min(width, height)
    for _ in range(rng.integers(4, 12)):
        colour = tuple(int(c) for c in muted())
        x, y = rng.uniform(-0.1, 1.0, 2) * (width, height)
        w, h = rng.uniform(0.05, 0.4, 2) * side
        shape = rng.integers(3)
        if shape == 0:
            draw.ellipse((x, y, x + w, y + h), fill=colour)
        elif shape == 1:
            draw.rectangle((x, y, x + w, y + h), fill=colour)
        else:
            x2, y2 = rng.uniform(0, 1, 2) * (width, height)
            draw.line((x, y, x2, y2), fill=colour, width=max(1, int(0.03 * side)))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.0, 0.03)) * side))
    noise = rng.normal(0, 8, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _covered(box: Box, others: Sequence[Box]) -> float:
    """The largest share of the smaller box that any other box covers."""
    worst = 0.0
    for other in others:
        w = min(box[2], other[2]) - max(box[0], other[0])
        h = min(box[3], other[3]) - max(box[1], other[1])
        if w > 0 and h > 0:
            smaller = min(
                (box[2] - box[0]) * (box[3] - box[1]), (other[2] - other[0]) * (other[3] - other[1])
            )
            worst = max(worst, w * h / smaller)
    return worst


def paste(
    rng: np.random.Generator,
    image: Image.Image,
    sprite: Image.Image,
    scale: float,
    taken: list[Box],
    overlap: float,
) -> Box | None:
    """Pastes a sprite whose longest side is `scale` of the scene's short side where it fits."""
    box = _place(rng, image.size, sprite, scale, taken, overlap)
    if box:
        _paint(rng, image, sprite, box)
    return box


def _place(
    rng: np.random.Generator,
    size: tuple[int, int],
    sprite: Image.Image,
    scale: float,
    taken: list[Box],
    overlap: float,
) -> Box | None:
    """A box for a sprite that no other box covers by more than `overlap`, if one is found."""
    factor = scale * min(size) / max(sprite.size)
    w, h = (max(4, round(side * factor)) for side in sprite.size)
    w, h = min(w, size[0]), min(h, size[1])
    for _ in range(24):
        x = int(rng.integers(0, size[0] - w + 1))
        y = int(rng.integers(0, size[1] - h + 1))
        box = (x, y, x + w, y + h)
        if _covered(box, taken) <= overlap:
            return box
    return None


def _paint(rng: np.random.Generator, image: Image.Image, sprite: Image.Image, box: Box) -> None:
    """Draws a sprite into its box, mirrored half of the time."""
    resized = sprite.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image.paste(resized, box[:2], resized)


def framed(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """A picture with a frame and the shadow of one, as a sprite."""
    edge = max(3, round(0.05 * max(picture.size)))
    frame = FRAMES[rng.integers(len(FRAMES))]
    width, height = (side + 2 * edge for side in picture.size)
    sprite = Image.new("RGBA", (width, height), (*frame, 255))
    sprite.paste(picture, (edge, edge))
    ImageDraw.Draw(sprite).rectangle((0, 0, width - 1, height - 1), outline=(30, 28, 26, 255))
    return sprite


def blurred(sprite: Image.Image, radius: float) -> Image.Image:
    """A drawing out of focus; the radius is a share of its longest side."""
    margin = round(radius * max(sprite.size)) + 1
    room = Image.new("RGBA", (sprite.width + 2 * margin, sprite.height + 2 * margin))
    room.paste(sprite, (margin, margin))
    return room.filter(ImageFilter.GaussianBlur(radius * max(sprite.size)))


def portrait(rng: np.random.Generator, name: str, artist: str, side: int = 128) -> Image.Image:
    """A knowledge-base image: one drawing on a plain, light ground with a little margin."""
    ground = Image.new("RGB", (side, side), tuple(int(c) for c in rng.integers(225, 256, 3)))
    paste(rng, ground, drawings(artist)[name], float(rng.uniform(0.8, 0.95)), [], 0.0)
    return ground


def at_home(
    rng: np.random.Generator,
    name: str,
    artist: str,
    place: landscapes.Place,
    style: landscapes.Style,
    side: int = 160,
) -> Image.Image:
    """A knowledge-base image: a thing in the landscape where it is at home."""
    ground = landscapes.draw(rng, place, style, (side, side))
    paste(rng, ground, drawings(artist)[name], float(rng.uniform(0.24, 0.34)), [], 0.0)
    return ground
