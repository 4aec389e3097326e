"""Who is in the built-in benchmark: things and places, split by split, and the homes of things."""

from collections.abc import Iterable
from functools import cache

import numpy as np

from regionr1.builtin import landscapes
from regionr1.builtin.artwork import (
    QUERY_ARTIST,
    SPLITS,
    UNSEEN_ARTIST,
    Split,
    Thing,
    drawings,
    salient,
    things,
)
from regionr1.builtin.kinds import Cast, Kind
from regionr1.builtin.landscapes import Place

Entity = Thing | Place
UNSEEN_SHARE = 0.15  # of test queries, drawn in a style that was never seen


@cache
def entities() -> tuple[Entity, ...]:
    """Every entity of the benchmark, in a fixed order."""
    return (*things(), *(place for split in SPLITS for place in landscapes.places(split)))


@cache
def _homes() -> dict[Thing, Place]:
    return dict(zip(things(), landscapes.homes(), strict=False))


def home(thing: Thing) -> Place:
    """The landscape where a thing of the benchmark is at home; no two share one."""
    return _homes()[thing]


def cast_of(rng: np.random.Generator, split: Split, kind: Kind) -> tuple[Entity, Cast, bool]:
    """Draws what one query is about, who else is in its scene, and whether the style is unseen."""
    unseen = split == "test" and rng.random() < UNSEEN_SHARE
    artist = UNSEEN_ARTIST if unseen else QUERY_ARTIST
    style = landscapes.UNSEEN_STYLE if unseen else landscapes.QUERY_STYLE
    drawn = [t for t in things() if t.split == split and t.name in drawings(artist)]
    known = landscapes.places(split)
    target: Entity
    if kind in ("thing_clear", "thing_home"):
        target = drawn[rng.integers(len(drawn))]
        place, others = home(target), [t for t in drawn if t.category != target.category]
    else:
        target = place = known[rng.integers(len(known))]
        others = drawn
    # Grounds are homes as often as places, so that a ground does not tell what is asked about.
    grounds: Iterable[Place] = known if rng.random() < 0.5 else [home(t) for t in others]
    grounds = [ground for ground in grounds if ground != place]
    others = [others[i] for i in rng.permutation(len(others))]
    # What stands out misleads: the first other thing is one that the scorer knows well.
    rival = next(thing for thing in others if thing.name in salient())
    rivals = [rival, *(thing for thing in others if thing != rival)][:3]
    cast = Cast(
        thing=target.name if isinstance(target, Thing) else None,
        place=place,
        rivals=[thing.name for thing in rivals],
        foreign=grounds[rng.integers(len(grounds))],
        artist=artist,
        style=style,
    )
    return target, cast, unseen
