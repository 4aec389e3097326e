"""The drawings that the built-in benchmark is made of, and who may see which.

84 things of the benchmark and 187 to practise on, in 8 categories, nearly all drawn by three
artists or more (NOTICE beside the drawings; `scripts/make_artwork` made them). Neither scorer nor
policy ever saw one of the 84, not even of the training split: what a reward teaches there is new.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from PIL import Image

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

QUERY_ARTIST = "noto"
"""Draws the things of queries, and never the knowledge base."""
KB_ARTISTS = ("fluent", "twemoji")
"""Draw the things of the knowledge base, and never a query."""
PRACTICE_ARTISTS = ("fluent", "twemoji", "noto", "noto-v1")
"""What the scorer and the warm start learn from."""
UNSEEN_ARTIST = "emojione"
"""Draws queries of the test split only, and was never seen by scorer or policy."""


@dataclass(frozen=True)
class Thing:
    """One entity of the benchmark.

    Attributes:
        name: The icon's name, such as `polar-bear`.
        category: What a question may call it, such as `mammal`.
        split: The only split whose queries may be about it; `practice` is outside the benchmark.
    """

    name: str
    category: str
    split: Split | Literal["practice"]

    @property
    def title(self) -> str:
        """The name as a page title."""
        return self.name.replace("-", " ").capitalize()


@cache
def things() -> tuple[Thing, ...]:
    """Every entity of the benchmark, in a fixed order."""
    return tuple(
        Thing(name, category, split)
        for category, splits in _table().items()
        for split in SPLITS
        for name in splits[split]
    )


@cache
def practice_things() -> tuple[Thing, ...]:
    """What the scorer and the warm start learn from.

    These are things of the benchmark's categories that are no part of it.
    """
    return tuple(
        Thing(name, category, "practice")
        for category, splits in _table().items()
        for name in splits["practice"]
    )


@cache
def salient() -> frozenset[str]:
    """Names of the half of every split that stands out: the built-in scorer knows it most surely.

    `scripts/train_scorer --salient` found them, from clean drawings by the artists of queries.
    """
    return frozenset(json.loads(files(__package__).joinpath("salient.json").read_text()))


def _table() -> dict[str, dict[str, list[str]]]:
    return json.loads(files(__package__).joinpath("categories.json").read_text())


@cache
def drawings(artist: str) -> Mapping[str, Image.Image]:
    """All of one artist's drawings by entity name, RGBA, cut to what is drawn."""
    packed = files(__package__).joinpath("artwork", f"{artist}.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        return {
            member.removesuffix(".webp"): Image.open(io.BytesIO(archive.read(member))).convert(
                "RGBA"
            )
            for member in archive.namelist()
        }
