"""The four kinds of query, which make *whether* to crop a question of its own.

    thing_clear  the thing asked about stands clear among rivals, on clutter or in a landscape that
                 is not its home: its crop tells, the full image misleads
    thing_home   it is tiny and blurred in its home, which its page in the knowledge base shows too;
                 what stands clear in front is something else: the full image tells
    place_wide   the landscape asked about fills the view, things stand in front: the full image
    place_small  it is a framed picture among things: its crop tells

Question and image together tell which: the same words are asked of clear and of hidden things, of
wide and of framed places; and a landscape is a place in one query and mere ground in another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from regionr1.builtin import landscapes, scenes
from regionr1.builtin.artwork import drawings
from regionr1.builtin.landscapes import Place
from regionr1.builtin.scenes import APART, Box

Kind = Literal["thing_clear", "thing_home", "place_wide", "place_small"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHARES: dict[Kind, float] = {
    "thing_clear": 0.31,
    "thing_home": 0.21,
    "place_wide": 0.21,
    "place_small": 0.27,
}
WANTS_CROP: tuple[Kind, ...] = ("thing_clear", "place_small")

# longest sides, as shares of the scene's short side
CLEAR = (0.42, 0.58)
HIDDEN = (0.13, 0.19)
RIVAL = (0.38, 0.56)
FRAME = (0.44, 0.60)
BLUR = (0.05, 0.10)  # of a hidden thing's own longest side
ON_LANDSCAPE = {"thing_clear": 0.5, "place_small": 0.3}  # elsewhere the ground is clutter


@dataclass(frozen=True)
class Cast:
    """Who is in a scene.

    Attributes:
        thing: Name of the thing asked about; None where a place is.
        place: The place asked about, or the thing's home.
        rivals: Names of other things, what stands out first.
        foreign: A place that is not asked about, for grounds.
        artist: Draws the things.
        style: Draws the landscapes.
    """

    thing: str | None
    place: Place
    rivals: Sequence[str]
    foreign: Place
    artist: str
    style: landscapes.Style


@dataclass
class Scene:
    """A composed query image.

    Attributes:
        image: RGB.
        kind: Which kind of query it is drawn for.
        target: Box of what is asked about; a wide place's is the whole image.
        rivals: Names and boxes of the other things, the most salient first.
        landscape: Whether the ground is one.
    """

    image: Image.Image
    kind: Kind
    target: Box
    rivals: list[tuple[str, Box]]
    landscape: bool

    @property
    def reference(self) -> Box:
        """The view that tells: the target where a crop is wanted, else the whole image."""
        return self.target if self.kind in WANTS_CROP else (0, 0, *self.image.size)


def compose(rng: np.random.Generator, kind: Kind, cast: Cast, size: tuple[int, int]) -> Scene:
    """Draws one scene of `size` (width, height) pixels; everything in it fits."""
    while True:
        scene = _try(rng, kind, cast, size)
        if scene is not None:
            return scene


def _try(rng: np.random.Generator, kind: Kind, cast: Cast, size: tuple[int, int]) -> Scene | None:
    """A scene, or None where something did not fit."""
    at_place = kind in ("thing_home", "place_wide")
    landscape = at_place or bool(rng.random() < ON_LANDSCAPE[kind])
    if landscape:
        place = cast.place if at_place else cast.foreign
        image = landscapes.draw(rng, place, cast.style, size)
    else:
        image = scenes.background(rng, *size)
    drawn = drawings(cast.artist)
    sprites: list[tuple[str, Image.Image, float]] = []
    for name, scale in zip(cast.rivals, _rivals(rng, kind), strict=False):
        sprites.append((name, drawn[name], scale))
    whole: Box = (0, 0, *size)
    target = whole
    if kind == "place_small":
        width, height = FRAME_SHAPES[rng.integers(len(FRAME_SHAPES))]
        picture = landscapes.draw(rng, cast.place, cast.style, (width, height))
        sprites.append(("", scenes.framed(rng, picture), float(rng.uniform(*FRAME))))
    elif kind == "thing_clear":
        sprites.append(("", drawn[cast.thing or ""], float(rng.uniform(*CLEAR))))
    elif kind == "thing_home":
        hidden = scenes.blurred(drawn[cast.thing or ""], float(rng.uniform(*BLUR)))
        sprites.append(("", hidden, float(rng.uniform(*HIDDEN))))
    taken: list[Box] = []
    rivals: list[tuple[str, Box]] = []
    for name, sprite, scale in sorted(sprites, key=lambda s: -s[2]):
        box = scenes.paste(rng, image, sprite, scale, taken, APART)
        if box is None:
            return None
        taken.append(box)
        if name:
            rivals.append((name, box))
        else:
            target = box
    return Scene(image, kind, target, rivals, landscape)


FRAME_SHAPES = ((120, 96), (96, 120), (108, 108))


def _rivals(rng: np.random.Generator, kind: Kind) -> list[float]:
    """Scales of the things that are not asked about."""
    shares = {
        "thing_clear": (0.0, 0.7, 0.3),
        "thing_home": (0.1, 0.6, 0.3),
        "place_wide": (0.1, 0.7, 0.2),
        "place_small": (0.1, 0.7, 0.2),
    }[kind]
    count = int(rng.choice(3, p=shares))
    return [float(rng.uniform(*(RIVAL if n == 0 else (0.24, 0.40)))) for n in range(count)]
