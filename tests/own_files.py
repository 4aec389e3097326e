"""The smallest data set of one's own."""

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
