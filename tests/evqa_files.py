"""A small data set in E-VQA's published layout, and a real scorer that reads colours."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from regionr1.data.build.stages import Prepare
from regionr1.data.readers.base import SPLITS, Source
from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.shards.index import ShardIndex
from regionr1.scorers.base import Scorer

HEADER = (
    "wikipedia_title,wikipedia_url,question_original,question,question_type,answer,evidence,"
    "evidence_section_id,evidence_section_title,dataset_name,dataset_category_id,"
    "wikipedia_url_used_in_train,encyclopedic_vqa_split,dataset_image_ids"
).split(",")
COLOURS = [(220, 30, 30), (30, 200, 40), (40, 60, 220), (220, 210, 40), (200, 40, 200)]


def url_of(entity: int) -> str:
    """KB key of an entity; one is percent-encoded like in the published files."""
    return f"https://en.wikipedia.org/wiki/{'Mus%C3%A9e' if entity == 0 else f'Entity_{entity}'}"


@dataclass
class EvqaFiles:
    """Contents of a folder, changeable before `write`."""

    root: Path
    rows: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    kb: dict[str, dict] = field(default_factory=dict)
    mapping: dict[str, str] = field(default_factory=dict)
    names: dict[str, dict[str, str]] = field(default_factory=lambda: {"train": {}, "val": {}})
    boxes: list[dict] = field(default_factory=list)

    def write(self) -> Path:
        """Write every text file and return the folder."""
        for split, rows in self.rows.items():
            with (self.root / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, HEADER)
                writer.writeheader()
                writer.writerows(rows)
        write_json(self.root / "encyclopedic_kb_wiki.json", self.kb)
        write_json(self.root / "url_to_path_mapping.json", self.mapping)
        for part, names in self.names.items():
            write_json(self.root / "inaturalist" / f"{part}_id2name.json", names)
        lines = "".join(json.dumps(box) + "\n" for box in self.boxes)
        (self.root / "reference_boxes.jsonl").write_text(lines, encoding="utf-8")
        return self.root

    def image_of(self, split: str, row: int) -> Path:
        """File of the first image of a row."""
        record = self.rows[split][row]
        image_id = record["dataset_image_ids"].split("|")[0]
        if record["dataset_name"] == "landmarks":
            a, b, c = image_id[:3]
            return self.root / "google-landmarks" / a / b / c / f"{image_id}.jpg"
        part = "train" if split == "train" else "val"
        return self.root / "inaturalist" / self.names[part][image_id]


def make_evqa(root: Path, sizes: dict[str, int] | None = None) -> EvqaFiles:
    """Make images and contents: five entities of one colour each, rows cycling over them.

    The first row of every split has two images, even rows are landmarks, odd rows iNaturalist.
    """
    sizes = sizes or {"train": 7, "val": 4, "test": 5}
    rng = random.Random(5)
    files = EvqaFiles(root)
    for entity, colour in enumerate(COLOURS):
        image_urls = [f"https://upload.wikimedia.org/{entity}/{n}.jpg" for n in range(3)]
        files.kb[url_of(entity)] = {
            "title": f"Entity {entity}",
            "url": url_of(entity),
            "section_titles": [f"Entity {entity}", "History"],
            "section_texts": [f"Entity {entity} is coloured.", 'In 1925, "again".'],
            "image_urls": image_urls,
            "image_reference_descriptions": [None, "a view", None],
            "image_section_indices": [0, 0, 1],
        }
        for n in range(2):  # the third image of every page has no pixels, as in the real KB
            name = f"wiki_images/{entity:03d}/{n}.jpg"
            save_image(root / name, colour, rng)
            files.mapping[image_urls[n]] = name
    number = 2_100_000
    for split, n_rows in sizes.items():
        part = "train" if split == "train" else "val"
        files.rows[split] = []
        for row in range(n_rows):
            entity, ids = row % len(COLOURS), []
            landmark = row % 2 == 0
            for _ in range(2 if row == 0 else 1):
                number += 1
                image_id = f"{number:016x}"[::-1] if landmark else str(number)
                ids.append(image_id)
                if landmark:
                    path = root / "google-landmarks" / Path(*image_id[:3]) / f"{image_id}.jpg"
                else:
                    name = f"{part}/00001_Aves_{entity}/{image_id}.jpg"
                    files.names[part][image_id] = name
                    path = root / "inaturalist" / name
                save_image(path, COLOURS[entity], rng)
            dataset = "landmarks" if landmark else "inaturalist"
            if row == 1:
                box = {"dataset_name": dataset, "image_id": ids[0], "box_px": [12, 8, 36, 32]}
                files.boxes.append(box)
            values = {
                "wikipedia_title": f"Entity {entity}",
                "wikipedia_url": url_of(entity),
                "question": f'Where, in row {row}, is "this"?',
                "question_type": "templated",
                "answer": "here |there",
                "dataset_name": dataset,
                "dataset_category_id": "1",
                "encyclopedic_vqa_split": split,
                "dataset_image_ids": "|".join(ids),
            }
            files.rows[split].append({name: values.get(name, "") for name in HEADER})
    return files


def make_shards(
    root: Path, sizes: dict[str, int] | None = None, samples_per_shard: int = 5
) -> Path:
    """Shards of K=4 and D=12 of such a data set; returns their folder."""
    make_evqa(root, sizes).write()
    out = root / "shards"
    prepare_shards(EvqaSource(root), ColourScorer(), out, k=4, samples_per_shard=samples_per_shard)
    return out


@dataclass(kw_only=True)
class PrepareWith(Prepare):
    """`regionr1 data prepare` with a reader and a scorer that are open already."""

    reader: Source
    model: Scorer

    def open_source(self) -> Source:
        return self.reader

    def open_scorer(self, device: torch.device | str = "cpu") -> Scorer:
        return self.model


def prepare_shards(
    reader: Source, model: Scorer, out: Path, splits: Sequence[str] = SPLITS, **options: Any
) -> list[ShardIndex]:
    """Builds shards; returns the index of every split."""
    made = PrepareWith(
        root=reader.root, out=out, splits=tuple(splits), reader=reader, model=model, **options
    )
    return made.build()


class ColourScorer(Scorer):
    """Embeds the mean colour of the four quarters of an image; D = 12."""

    dim = 12

    def __init__(self, name: str = "colour") -> None:
        super().__init__()
        self.name = name
        self.calls = 0

    def fingerprint(self) -> str:
        return self.name

    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        self.calls += 1
        small = [image.resize((2, 2), Image.Resampling.BOX) for image in images]
        rows = [torch.frombuffer(bytearray(s.tobytes()), dtype=torch.uint8) for s in small]
        return torch.nn.functional.normalize(torch.stack(rows).float() - 110.0, dim=1)

    def embed_candidates(self, images: Sequence[Image.Image], texts: Sequence[str]) -> torch.Tensor:
        assert len(images) == len(texts)
        return self.embed_images(images)


def save_image(path: Path, colour: tuple[int, int, int], rng: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = tuple(max(0, min(255, c + rng.randint(-12, 12))) for c in colour)
    Image.new("RGB", (48, 40), shade).save(path, quality=90)


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
