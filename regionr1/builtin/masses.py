"""What stands between sky and ground of a landscape, each drawn by one function.

Every function is given the place's own randomness, the pen, a colour, width and height of the
picture and the row of the horizon, on which the mass stands.
"""

from collections.abc import Callable

import numpy as np
from PIL.ImageDraw import ImageDraw as Pen

Colour = tuple[int, int, int]


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """A colour that lies a share of the way from one to another."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _peaks(
    own: np.random.Generator, pen: Pen, colour: Colour, wide: int, high: int, horizon: int
) -> None:
    for k in range(4):
        x, up = wide * (k + own.uniform(0.2, 0.8)) / 4, high * own.uniform(0.2, 0.42)
        half, tone = wide * own.uniform(0.16, 0.26), mix(colour, (30, 30, 50), 0.12 * k)
        pen.polygon([(x - half, horizon), (x, horizon - up), (x + half, horizon)], fill=tone)
        cap = [(x - half * 0.28, horizon - up * 0.72), (x, horizon - up)]
        pen.polygon([*cap, (x + half * 0.28, horizon - up * 0.72)], fill=(244, 246, 250))


def _mesa(
    own: np.random.Generator, pen: Pen, colour: Colour, wide: int, high: int, horizon: int
) -> None:
    for k in range(2):
        x, up = wide * (0.3 + 0.45 * k + own.uniform(-0.1, 0.1)), high * own.uniform(0.22, 0.34)
        half = wide * own.uniform(0.14, 0.24)
        for band in range(4):
            low, tone = horizon - up * band / 4, mix(colour, (250, 210, 160), 0.2 * (band % 2))
            w = half * (1.25 - 0.1 * band)
            pen.rectangle((x - w, low - up / 4, x + w, low), fill=tone)


def _volcano(
    own: np.random.Generator, pen: Pen, colour: Colour, wide: int, high: int, horizon: int
) -> None:
    x, up, half = wide * own.uniform(0.3, 0.7), high * 0.42, wide * 0.4
    rim = half * 0.2
    pen.polygon(
        [
            (x - half, horizon),
            (x - rim, horizon - up),
            (x + rim, horizon - up),
            (x + half, horizon),
        ],
        fill=colour,
    )
    pen.polygon(
        [(x - rim, horizon - up), (x + rim, horizon - up), (x + rim / 2, horizon - up * 0.45)],
        fill=(246, 110, 40),
    )


def _pines(
    own: np.random.Generator, pen: Pen, colour: Colour, wide: int, high: int, horizon: int
) -> None:
    for k in range(12):
        x, up = wide * (k + own.uniform(0, 1)) / 12, high * own.uniform(0.18, 0.34)
        half, tone = wide * 0.045, mix(colour, (12, 40, 34), own.uniform(0, 0.7))
        for part in range(3):
            low, w = horizon - up * part * 0.28, half * (1.2 - 0.28 * part)
            pen.polygon([(x - w, low), (x, low - up * 0.45), (x + w, low)], fill=tone)


def _skyline(
    own: np.random.Generator, pen: Pen, colour: Colour, wide: int, high: int, horizon: int
) -> None:
    for k in range(9):
        x, up = wide * k / 9, high * own.uniform(0.14, 0.44)
        w = wide * own.uniform(0.07, 0.12)
        tone = mix(colour, (30, 34, 50), own.uniform(0, 0.6))
        pen.rectangle((x, horizon - up, x + w, horizon), fill=tone)
        for row in np.arange(horizon - up + 4, horizon - 4, max(5, high * 0.035)):
            for column in (0.25, 0.65):
                left = x + w * column
                pen.rectangle((left, row, left + w * 0.14, row + 2), fill=(250, 220, 120))


def _arch(
    own: np.random.Generator, pen: Pen, colour: Colour, wide: int, high: int, horizon: int
) -> None:
    x, up, half = wide * own.uniform(0.35, 0.65), high * 0.4, wide * 0.26
    thick = int(half * 0.42)
    pen.arc((x - half, horizon - up, x + half, horizon + up), 180, 360, fill=colour, width=thick)
    pen.rectangle((x - half * 1.5, horizon - up * 0.25, x - half, horizon), fill=colour)


def _hills(
    own: np.random.Generator, pen: Pen, colour: Colour, wide: int, high: int, horizon: int
) -> None:
    for k in range(4):
        x, r = wide * (k + own.uniform(0, 1)) / 4, wide * own.uniform(0.16, 0.28)
        tone = mix(colour, (50, 90, 60), 0.2 * k)
        pen.ellipse((x - r, horizon - r * 0.7, x + r, horizon + r), fill=tone)


def _castle(
    own: np.random.Generator, pen: Pen, colour: Colour, wide: int, high: int, horizon: int
) -> None:
    x, up, half = wide * own.uniform(0.35, 0.65), high * 0.26, wide * 0.24
    pen.rectangle((x - half, horizon - up, x + half, horizon), fill=colour)
    for k, tall in ((-1, 1.5), (-0.35, 1.2), (0.35, 1.7), (1, 1.35)):
        left, w, top = x + k * half, half * 0.2, horizon - up * tall
        tone = mix(colour, (60, 60, 80), 0.3)
        pen.rectangle((left - w, top, left + w, horizon), fill=tone)
        pen.polygon(
            [(left - w * 1.3, top), (left, top - up * 0.5), (left + w * 1.3, top)],
            fill=(150, 50, 50),
        )


def _pyramids(
    own: np.random.Generator, pen: Pen, colour: Colour, wide: int, high: int, horizon: int
) -> None:
    for k in range(3):
        x, up = wide * (0.2 + 0.3 * k + own.uniform(-0.05, 0.05)), high * own.uniform(0.16, 0.32)
        left, right = (x - up * 0.9, horizon), (x + up * 0.9, horizon)
        pen.polygon([left, (x, horizon - up), right], fill=colour)
        dark = mix(colour, (80, 60, 30), 0.5)
        pen.polygon([(x + up * 0.2, horizon), (x, horizon - up), right], fill=dark)


def _windmills(
    own: np.random.Generator, pen: Pen, colour: Colour, wide: int, high: int, horizon: int
) -> None:
    for k in range(3):
        x, up = wide * (0.2 + 0.3 * k + own.uniform(-0.08, 0.08)), high * own.uniform(0.24, 0.36)
        pen.polygon(
            [
                (x - up * 0.16, horizon),
                (x - up * 0.09, horizon - up),
                (x + up * 0.09, horizon - up),
                (x + up * 0.16, horizon),
            ],
            fill=colour,
        )
        turn = own.uniform(0, 1.5)
        for blade in range(4):
            angle = turn + blade * np.pi / 2
            tip = (x + up * 0.5 * np.cos(angle), horizon - up + up * 0.5 * np.sin(angle))
            pen.line((x, horizon - up, *tip), fill=(120, 60, 50), width=max(2, int(up * 0.06)))


MASS_PENS: dict[str, Callable[[np.random.Generator, Pen, Colour, int, int, int], None]] = {
    "peaks": _peaks,
    "mesa": _mesa,
    "volcano": _volcano,
    "pines": _pines,
    "skyline": _skyline,
    "arch": _arch,
    "hills": _hills,
    "castle": _castle,
    "pyramids": _pyramids,
    "windmills": _windmills,
}
