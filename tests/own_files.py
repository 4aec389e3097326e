"""The smallest data sets of one's own."""

from collections.abc import Sequence
from pathlib import Path

from infoseek_files import write_jsonl
from PIL import Image


def make_own(folder: Path) -> Path:
    """Two entities, red and blue, with a picture each and one query each in every split."""
    folder.mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (40, 30), colour).save(folder / f"{colour}.png")
    write_jsonl(
        folder / "entities.jsonl",
        [{"id": c, "title": f"Shop {c}", "images": [f"{c}.png"]} for c in ("red", "blue")],
    )
    for split in ("train", "val", "test"):
        write_jsonl(
            folder / f"{split}.jsonl",
            [
                {"image": f"{c}.png", "question": "Which shop?", "gold": [c], "id": f"1.{c}"}
                for c in ("red", "blue")
            ],
        )
    return folder


def make_asked(folder: Path, asked: dict[str, Sequence[int]]) -> Path:
    """Six entities of one shade each, and queries that share images.

    Args:
        folder: A new folder.
        asked: For every split the number of the image of each query, in file order; image n is of
            entity n modulo 6.
    """
    folder.mkdir(parents=True)
    for n in range(6):
        Image.new("RGB", (40, 30), (40 * n, 90, 240 - 40 * n)).save(folder / f"e{n}.png")
    write_jsonl(
        folder / "entities.jsonl",
        [{"id": f"e{n}", "title": f"Shade {n}", "images": [f"e{n}.png"]} for n in range(6)],
    )
    for split, images in asked.items():
        for n in set(images):
            shade = (40 * (n % 6) + n % 37, 90 + n % 11, 240 - 40 * (n % 6))
            Image.new("RGB", (48, 40), shade).save(folder / f"{split}-{n}.png")
        write_jsonl(
            folder / f"{split}.jsonl",
            [
                {"image": f"{split}-{n}.png", "question": f"Question {i}?", "gold": [f"e{n % 6}"],
                 "id": f"{split}.{i}"}
                for i, n in enumerate(images)
            ],
        )  # fmt: skip
    return folder
