"""Procedural landscapes: places that are asked about, and the homes of things.

A place is a sky, a ground and a mass between them, ten of each, so a thousand combinations. Those
of one benchmark layer share at most one of the three with one another, so no two look alike by
two parts. Layers of the benchmark and layers of practice have no combination in common.

Everything but the combination varies from view to view: the crop, the light, which side is left.
Styles play the part that artists play for things.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from regionr1.builtin.masses import MASS_PENS, Colour, mix

Style = Literal["flat", "painted", "sketched", "pixelated"]
QUERY_STYLE: Style = "sketched"
"""Draws the landscapes of queries, and never the knowledge base."""
KB_STYLES: tuple[Style, ...] = ("flat", "painted")
"""Draw the landscapes of the knowledge base, and never a query."""
PRACTICE_STYLES: tuple[Style, ...] = ("flat", "painted", "sketched")
"""What scorer and warm start learn from."""
UNSEEN_STYLE: Style = "pixelated"
"""Draws queries of the test split only, and was never seen by scorer or policy."""

KINDS = 10  # of skies, of grounds and of masses
PLACE_LAYER, HOME_LAYER = 0, 5  # of (mass - sky - ground) mod KINDS
N_PLACES = 56
SPLIT_SHARES = {"train": 26, "val": 8, "test": 22}
FIRST = ("Alder", "Bryn", "Cor", "Dunmar", "Elver", "Fenn", "Gallow", "Harrow", "Isel", "Jorvan")
SECOND = ("by", "ford", "gate", "holm", "mere", "ness", "stead", "thorpe", "wick", "worth")

SKIES: tuple[tuple[Colour, Colour, str], ...] = (  # top, bottom, what is in it
    ((92, 160, 226), (196, 226, 246), "clouds"),
    ((52, 40, 96), (242, 142, 84), "sun"),
    ((10, 14, 44), (38, 52, 104), "stars"),
    ((246, 196, 120), (252, 236, 190), "sun"),
    ((84, 90, 102), (150, 156, 164), "rain"),
    ((12, 34, 48), (44, 104, 98), "aurora"),
    ((214, 150, 178), (250, 218, 214), "birds"),
    ((60, 132, 148), (184, 224, 206), "rainbow"),
    ((122, 66, 60), (214, 122, 92), "smoke"),
    ((150, 172, 214), (236, 236, 244), "moon"),
)
GROUNDS: tuple[tuple[Colour, Colour, str], ...] = (  # colour, second colour, texture
    ((96, 158, 70), (232, 84, 112), "dots"),
    ((226, 190, 122), (196, 150, 84), "waves"),
    ((52, 112, 164), (126, 180, 214), "ripples"),
    ((238, 242, 248), (202, 216, 234), "waves"),
    ((58, 44, 46), (240, 96, 36), "cracks"),
    ((88, 102, 62), (120, 150, 132), "pools"),
    ((190, 172, 74), (122, 138, 54), "furrows"),
    ((150, 148, 150), (106, 104, 110), "tiles"),
    ((160, 84, 58), (118, 56, 42), "cracks"),
    ((126, 88, 140), (176, 140, 184), "furrows"),
)
MASSES: tuple[tuple[Colour, str], ...] = (
    ((118, 124, 140), "peaks"),
    ((176, 96, 60), "mesa"),
    ((84, 66, 70), "volcano"),
    ((34, 84, 58), "pines"),
    ((70, 78, 100), "skyline"),
    ((206, 170, 128), "arch"),
    ((110, 150, 84), "hills"),
    ((150, 140, 132), "castle"),
    ((208, 176, 96), "pyramids"),
    ((226, 226, 232), "windmills"),
)


@dataclass(frozen=True)
class Place:
    """One landscape: indices into SKIES, GROUNDS and MASSES."""

    sky: int
    ground: int
    mass: int

    category = "place"

    @property
    def name(self) -> str:
        """The place's key, such as `place-3-0-7`."""
        return f"place-{self.sky}-{self.ground}-{self.mass}"

    @property
    def title(self) -> str:
        """An invented name, which tells nothing about what it looks like."""
        number = (self.sky * 37 + self.ground * 11 + self.mass * 3) % 100
        return f"{FIRST[number // 10]}{SECOND[number % 10]} {'ABCDEFGHIJ'[self.mass]}{self.sky}"


def _layer(layer: int) -> list[Place]:
    """The KINDS ** 2 combinations of one layer, in a fixed random order."""
    found = [
        Place(sky, ground, (sky + ground + layer) % KINDS)
        for sky in range(KINDS)
        for ground in range(KINDS)
    ]
    return [found[i] for i in np.random.default_rng(layer).permutation(len(found))]


@cache
def places(split: str) -> tuple[Place, ...]:
    """Places that queries of one split ask about."""
    start = 0
    for name, count in SPLIT_SHARES.items():
        if name == split:
            return tuple(_layer(PLACE_LAYER)[start : start + count])
        start += count
    raise ValueError(f"no split {split!r}")


def homes() -> list[Place]:
    """Landscapes for the homes of things, one each, in a fixed order."""
    return _layer(HOME_LAYER)


@cache
def practice_places() -> tuple[Place, ...]:
    """Every combination that is outside the benchmark."""
    layers = (n for n in range(KINDS) if n not in (PLACE_LAYER, HOME_LAYER))
    return tuple(place for layer in layers for place in _layer(layer))


def draw(
    rng: np.random.Generator, place: Place, style: Style, size: tuple[int, int]
) -> Image.Image:
    """One view of a place.

    Args:
        rng: Decides the crop, the light and the side.
        place: The combination.
        style: Who draws it.
        size: Width and height in pixels.
    """
    zoom = float(rng.uniform(1.0, 1.3))
    wide, high = (round(side * zoom) for side in size)
    own = np.random.default_rng((place.sky, place.ground, place.mass))  # the same in every view
    image = _sky(own, place.sky, wide, high)
    horizon = int(high * own.uniform(0.52, 0.66))
    colour, kind = MASSES[place.mass]
    pen = ImageDraw.Draw(image)
    MASS_PENS[kind](own, pen, colour, wide, high, horizon)
    _ground(own, image, place.ground, horizon)
    x, y = (
        int(rng.integers(0, big - side + 1)) for big, side in ((wide, size[0]), (high, size[1]))
    )
    image = image.crop((x, y, x + size[0], y + size[1]))
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    light = rng.uniform(0.88, 1.12) * rng.uniform(0.95, 1.05, 3)
    image = Image.fromarray((np.asarray(image) * light).clip(0, 255).astype(np.uint8))
    return STYLES[style](rng, image)


# ---- the parts of a place -------------------------------------------------------------------


def _sky(own: np.random.Generator, index: int, wide: int, high: int) -> Image.Image:
    top, bottom, inside = SKIES[index]
    down = np.linspace(0, 1, high)[:, None, None] * 1.4
    rows = np.array(top) + (np.array(bottom) - np.array(top)) * down.clip(0, 1)
    image = Image.fromarray(np.broadcast_to(rows, (high, wide, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    side = min(wide, high)
    x, y = own.uniform(0.15, 0.85) * wide, own.uniform(0.12, 0.3) * high
    light = mix(bottom, (255, 255, 255), 0.6)
    if inside in ("sun", "moon"):
        r = side * (0.09 if inside == "sun" else 0.07)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=mix(light, (255, 240, 160), 0.5))
        if inside == "moon":
            pen.ellipse((x - r / 3, y - r, x + 1.6 * r, y + r), fill=mix(top, bottom, 0.3))
    elif inside in ("clouds", "smoke"):
        tone = light if inside == "clouds" else mix(top, (30, 30, 30), 0.5)
        for _ in range(6):
            x, y = own.uniform(0, wide), own.uniform(0.02, 0.4) * high
            for k in range(4):
                r = side * own.uniform(0.04, 0.08)
                pen.ellipse((x + k * r - r, y - r, x + k * r + r, y + 0.6 * r), fill=tone)
    elif inside == "stars":
        for _ in range(70):
            x, y, r = own.uniform(0, wide), own.uniform(0, 0.55) * high, side * 0.006
            pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 250, 220))
    elif inside == "rain":
        for _ in range(60):
            x, y = own.uniform(0, wide), own.uniform(0, 0.6) * high
            pen.line((x, y, x - side * 0.02, y + side * 0.06), fill=light, width=1)
    elif inside == "aurora":
        for k in range(3):
            xs = np.linspace(0, wide, 24)
            ys = high * (0.12 + 0.1 * k + 0.05 * np.sin(xs / wide * 9 + own.uniform(0, 6)))
            tone = mix((90, 240, 160), (150, 90, 220), k / 2)
            pen.line(list(zip(xs, ys, strict=True)), fill=tone, width=max(2, side // 22))
    elif inside == "birds":
        for _ in range(9):
            x, y, r = own.uniform(0, wide), own.uniform(0.05, 0.4) * high, side * 0.03
            pen.line((x - r, y - r / 2, x, y, x + r, y - r / 2), fill=(70, 50, 70), width=2)
    else:  # a rainbow
        for k, tone in enumerate(((226, 80, 80), (240, 200, 90), (90, 190, 110), (90, 110, 220))):
            r = side * (0.62 - 0.035 * k)
            box = (wide / 2 - r, high * 0.6 - r, wide / 2 + r, high * 0.6 + r)
            pen.arc(box, 180, 360, fill=tone, width=max(2, side // 26))
    return image


def _ground(own: np.random.Generator, image: Image.Image, index: int, horizon: int) -> None:
    base, second, texture = GROUNDS[index]
    wide, high = image.size
    side, pen = min(wide, high), ImageDraw.Draw(image)
    pen.rectangle((0, horizon, wide, high), fill=base)
    depth = high - horizon
    if texture == "dots":
        for _ in range(90):
            y = horizon + depth * own.uniform(0, 1) ** 1.3
            x, r = own.uniform(0, wide), side * 0.012 * (0.5 + 1.5 * (y - horizon) / depth)
            pen.ellipse((x - r, y - r, x + r, y + r), fill=second)
    elif texture in ("waves", "ripples"):
        xs = np.linspace(0, wide, 32)
        for k in range(6 if texture == "waves" else 12):
            y = horizon + depth * ((k + 0.6) / (6 if texture == "waves" else 12)) ** 1.4
            swell = side * (0.03 if texture == "waves" else 0.006)
            ys = y + swell * np.sin(xs / wide * own.uniform(6, 14) + own.uniform(0, 6))
            pen.line(list(zip(xs, ys, strict=True)), fill=second, width=max(1, side // 60))
    elif texture == "cracks":
        for _ in range(14):
            x, y = own.uniform(0, wide), horizon + depth * own.uniform(0.05, 1)
            points = [(x, y)]
            for _ in range(3):
                x, y = x + side * own.uniform(-0.12, 0.12), y + side * own.uniform(-0.02, 0.05)
                points.append((x, max(y, horizon)))
            pen.line(points, fill=second, width=max(2, side // 70))
    elif texture == "pools":
        for _ in range(9):
            x, y = own.uniform(0, wide), horizon + depth * own.uniform(0.1, 1)
            r = side * own.uniform(0.04, 0.11)
            pen.ellipse((x - r, y - r / 3, x + r, y + r / 3), fill=second)
    elif texture == "furrows":
        far = wide * own.uniform(0.3, 0.7)
        for k in range(-14, 15):
            pen.line((far, horizon, far + k * wide * 0.16, high), fill=second, width=side // 40)
    else:  # tiles
        for k in range(1, 7):
            y = horizon + depth * (k / 6) ** 1.6
            pen.line((0, y, wide, y), fill=second, width=max(1, side // 80))
        for k in range(-9, 10):
            start = wide / 2 + k * wide * 0.07
            end = wide / 2 + k * wide * 0.25
            pen.line((start, horizon, end, high), fill=second, width=max(1, side // 80))


# ---- styles ---------------------------------------------------------------------------------


def _flat(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.6))


def _painted(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Broad strokes: every place takes the colour of one a little way off."""
    width, height = image.size
    coarse = rng.normal(0, 1, (2, height // 6 + 2, width // 6 + 2))
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    shift = [np.kron(c, np.ones((6, 6)))[:height, :width] * min(image.size) * 0.012 for c in coarse]
    x = (x + shift[0]).clip(0, width - 1).astype(int)
    y = (y + shift[1]).clip(0, height - 1).astype(int)
    return Image.fromarray(np.asarray(image)[y, x]).filter(ImageFilter.GaussianBlur(1.2))


def _sketched(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Dark outlines over washed-out colours on rough paper."""
    edges = ImageOps.autocontrast(image.convert("L").filter(ImageFilter.FIND_EDGES), cutoff=1)
    ink = ImageOps.invert(edges).point(lambda v: max(60, min(255, int(v * 1.3))))
    washed = Image.blend(image, Image.new("RGB", image.size, (244, 238, 224)), 0.3)
    drawn = np.asarray(ImageChops.multiply(washed, Image.merge("RGB", [ink] * 3)))
    paper = rng.normal(0, 7, (*drawn.shape[:2], 1))
    return Image.fromarray((drawn + paper).clip(0, 255).astype(np.uint8))


def _pixelated(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Large squares of few colours."""
    cell = max(3, min(image.size) // 48)
    small = image.resize([max(1, side // cell) for side in image.size], Image.Resampling.BOX)
    few = ImageOps.posterize(small, 3)
    return few.resize(image.size, Image.Resampling.NEAREST)


STYLES: dict[Style, Callable[[np.random.Generator, Image.Image], Image.Image]] = {
    "flat": _flat,
    "painted": _painted,
    "sketched": _sketched,
    "pixelated": _pixelated,
}
