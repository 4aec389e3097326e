"""The drawings that the built-in benchmark is made of, and who may see which.

311 things in 8 categories, each drawn by three to five artists of open emoji sets (NOTICE beside the
drawings; `scripts/make_artwork` made them). Entities are split once, by name, so that what is tested
was never seen while the scorer or the policy learned.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np
from PIL import Image

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

KB_ARTISTS = ("fluent", "twemoji")
"""Draw the knowledge base, and never a query."""
QUERY_ARTISTS = ("noto", "noto-v1")
"""Draw the queries, and never the knowledge base."""
UNSEEN_ARTIST = "emojione"
"""Drawn for nobody: kept to ask whether the scorer generalises to a style it never saw."""

_SHARE = {"train": 0.6, "val": 0.12, "test": 0.28}


@dataclass(frozen=True)
class Thing:
    """One entity of the benchmark.

    Attributes:
        name: The icon's name, such as `polar-bear`.
        category: What a question may call it, such as `mammal`.
        split: The only split whose queries may be about it.
    """

    name: str
    category: str
    split: Split

    @property
    def title(self) -> str:
        """The name as a page title."""
        return self.name.replace("-", " ").capitalize()


@cache
def things() -> tuple[Thing, ...]:
    """Every entity, in a fixed order, with its split."""
    table = json.loads(files(__package__).joinpath("categories.json").read_text())
    found = []
    for category, names in sorted(table.items()):
        shuffled = list(np.random.default_rng(0).permutation(sorted(names)))
        n_train = round(_SHARE["train"] * len(shuffled))
        n_val = round(_SHARE["val"] * len(shuffled))
        for rank, name in enumerate(shuffled):
            split: Split = (
                "train" if rank < n_train else "val" if rank < n_train + n_val else "test"
            )
            found.append(Thing(str(name), category, split))
    return tuple(found)


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
