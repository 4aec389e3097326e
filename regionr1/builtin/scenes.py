"""Composes scenes: a target among other things over a cluttered background.

Four kinds of scene make *whether* to crop a question of its own. In `cluttered` scenes the target
shares the image with things of other categories; `lone` and `dominant` targets fill the view
already; and a `group` shows the target several times, where one copy says less than the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from regionr1.builtin.artwork import drawings

SceneKind = Literal["cluttered", "lone", "dominant", "group"]
KIND_SHARES: dict[SceneKind, float] = {
    "cluttered": 0.91,
    "lone": 0.03,
    "dominant": 0.03,
    "group": 0.03,
}
CLUTTERED_TARGET = (0.46, 0.64)  # of the scene's short side
CLUTTERED_RIVAL = (0.46, 0.66)  # the first other thing
CLUTTERED_EXTRA = (0.20, 0.34)  # the rest
Box = tuple[int, int, int, int]


@dataclass
class Placed:
    """One thing in a scene: its name, the artist, and where it is (xyxy, scene pixels)."""

    name: str
    artist: str
    box_px: Box


@dataclass
class Scene:
    """A composed image; `placed[0]` is the target, a group's box spans all its copies."""

    image: Image.Image
    placed: list[Placed]
    kind: SceneKind


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


def compose(
    rng: np.random.Generator,
    target: tuple[str, str],
    others: Sequence[tuple[str, str]],
    size: tuple[int, int],
    kind: SceneKind,
) -> Scene:
    """Draws one scene.

    Args:
        rng: Decides everything that is not given.
        target: Name and artist of what is asked about.
        others: Names and artists to draw from for the clutter; as many as the kind of scene needs
            are used, in order.
        size: Width and height in pixels.
        kind: Which kind of scene.
    """
    image = background(rng, *size)
    sprite = drawings(target[1])[target[0]]
    taken: list[Box] = []
    if kind == "group":
        for _ in range(rng.integers(3, 6)):
            box = paste(rng, image, sprite, float(rng.uniform(0.3, 0.42)), taken, 0.2)
            if box:
                taken.append(box)
        union = tuple(f(b[i] for b in taken) for i, f in enumerate((min, min, max, max)))
        return Scene(image, [Placed(*target, union)], kind)  # type: ignore[arg-type]
    if kind == "cluttered":
        return Scene(image, _clutter(rng, image, target, others), kind)
    low, high = (0.4, 0.75) if kind == "lone" else (0.66, 0.9)
    box = paste(rng, image, sprite, float(rng.uniform(low, high)), taken, 0.0)
    if box is None:
        raise AssertionError("a sprite no larger than the empty scene always fits")
    taken.append(box)
    placed = [Placed(*target, box)]
    count = 0 if kind == "lone" else int(rng.integers(0, 3))
    for name, artist in others[:count]:
        box = paste(rng, image, drawings(artist)[name], float(rng.uniform(0.14, 0.24)), taken, 0.12)
        if box:
            taken.append(box)
            placed.append(Placed(name, artist, box))
    return Scene(image, placed, kind)


def _clutter(
    rng: np.random.Generator,
    image: Image.Image,
    target: tuple[str, str],
    others: Sequence[tuple[str, str]],
) -> list[Placed]:
    """Draws the target, a rival of its size and up to two smaller things; all of them fit."""
    cast = [target, *others[: int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))]]
    while True:  # until everything fits: a scene without its rival would be the target's alone
        ranges = [CLUTTERED_TARGET, CLUTTERED_RIVAL, CLUTTERED_EXTRA, CLUTTERED_EXTRA]
        scales = [float(rng.uniform(*ranges[i])) for i in range(len(cast))]
        boxes: dict[int, Box] = {}
        for i in sorted(range(len(cast)), key=lambda i: -scales[i]):
            name, artist = cast[i]
            sprite = drawings(artist)[name]
            box = _place(rng, image.size, sprite, scales[i], list(boxes.values()), 0.12)
            if box is None:
                break
            boxes[i] = box
        if len(boxes) == len(cast):
            for i, box in boxes.items():
                _paint(rng, image, drawings(cast[i][1])[cast[i][0]], box)
            return [Placed(*cast[i], boxes[i]) for i in range(len(cast))]


def portrait(rng: np.random.Generator, name: str, artist: str, side: int = 128) -> Image.Image:
    """A knowledge-base image: one drawing on a plain, light ground with a little margin."""
    ground = Image.new("RGB", (side, side), tuple(int(c) for c in rng.integers(225, 256, 3)))
    paste(rng, ground, drawings(artist)[name], float(rng.uniform(0.8, 0.95)), [], 0.0)
    return ground
