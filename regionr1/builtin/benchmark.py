"""Writes the built-in benchmark to disk in E-VQA's published layout.

Everything after this file treats it like the real data set: the same reader, pools, shards and
trainer. Living things are written the way E-VQA stores iNaturalist images, all others the way
it stores Google Landmarks.
"""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regionr1.builtin import kinds, landscapes, questions, scenes
from regionr1.builtin.artwork import KB_ARTISTS, SPLITS, Split, drawings
from regionr1.builtin.museum import Entity, cast_of, entities, home
from regionr1.errors import UserError
from regionr1.files import write_json
from regionr1.progress import progress

VERSION = 4  # of what is drawn: raised whenever the same options give other files
SIZES = ((256, 256), (288, 224), (224, 288))
LIVING = ("mammal", "bird", "plant", "fruit")
SITE = "https://regionr1.example/wiki/"


def write_benchmark(
    out: Path, train: int = 2400, val: int = 240, test: int = 720, seed: int = 0
) -> None:
    """Writes the built-in benchmark: composed scenes, questions and a knowledge base.

    Writing again with the same options keeps what is there.

    Args:
        out: Folder to write, in E-VQA's published layout.
        train: Training queries, about training entities.
        val: Validation queries, about entities of their own.
        test: Test queries, about entities seen nowhere else.
        seed: Decides every scene and question.

    Raises:
        UserError: A count is not positive, or the folder holds something else.
    """
    counts: dict[str, int] = {"train": train, "val": val, "test": test}
    if min(counts.values()) < 1:
        raise UserError(f"the benchmark needs at least one query in every split, got {counts}")
    if seed < 0:
        raise UserError(f"seed={seed}: the seed of the benchmark must be at least 0")
    stamp = {"benchmark": "regionr1 built-in", "version": VERSION, "seed": seed, **counts}
    try:
        if out.exists() and any(out.iterdir()):
            written = out / "benchmark.json"
            if written.is_file() and written.read_bytes() == json.dumps(stamp).encode():
                print(f"{out} already holds this benchmark")
                return
            raise UserError(f"{out} holds something else: choose another folder or remove it first")
        staging = out.parent / f".{out.name}.partial-{os.getpid()}"
        staging.mkdir(parents=True)
        try:
            _write_all(staging, counts, seed)
            write_json(staging / "benchmark.json", stamp)
            staging.replace(out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error}); choose another folder") from error
    print(f"wrote {sum(counts.values())} queries about {len(entities())} entities to {out}")


def url(thing: Entity) -> str:
    """The entity's page, which is its id."""
    return SITE + thing.title.replace(" ", "_")


def _write_all(root: Path, counts: dict[str, int], seed: int) -> None:
    """Every file of the benchmark but its stamp."""
    _write_kb(root, seed)
    boxes: list[dict[str, Any]] = []
    paths: dict[str, dict[str, str]] = {"train": {}, "val": {}}
    n_scenes = sum(counts.values())
    with progress(total=n_scenes, desc="drawing scenes", unit="scene") as bar:
        for number, split in enumerate(SPLITS):
            rows = []
            rng = np.random.default_rng((seed, number))
            for index in range(counts[split]):
                rows.append(_write_query(root, split, index, rng, boxes, paths))
                bar.update()
            with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
    for name, mapping in paths.items():
        write_json(root / "inaturalist" / f"{name}_id2name.json", mapping)
    lines = (json.dumps(line) + "\n" for line in boxes)
    (root / "reference_boxes.jsonl").write_text("".join(lines), encoding="utf-8")


def kb_images(rng: np.random.Generator, entity: Entity) -> Iterator[tuple[str, Image.Image]]:
    """An entity's pictures in the knowledge base, each with the name of who made it.

    A thing has a portrait by every knowledge-base artist who drew it, and a picture of it at home;
    a place has views in every knowledge-base style.
    """
    if isinstance(entity, landscapes.Place):
        for style in landscapes.KB_STYLES:
            yield style, landscapes.draw(rng, entity, style, (160, 160))
        return
    artists = [artist for artist in KB_ARTISTS if entity.name in drawings(artist)]
    for artist in artists:
        yield artist, scenes.portrait(rng, entity.name, artist)
    for style in landscapes.KB_STYLES:
        artist = artists[rng.integers(len(artists))]
        yield f"home-{style}", scenes.at_home(rng, entity.name, artist, home(entity), style)


def _write_kb(root: Path, seed: int) -> None:
    """Every entity's page with its pictures."""
    rng = np.random.default_rng((seed, 99))
    pages: dict[str, dict[str, Any]] = {}
    mapping: dict[str, str] = {}
    for entity in entities():
        images = []
        for maker, image in kb_images(rng, entity):
            image_url = f"https://regionr1.example/images/{maker}/{entity.name}.png"
            relative = f"wikipedia_images/{maker}/{entity.name}.png"
            (root / relative).parent.mkdir(parents=True, exist_ok=True)
            image.save(root / relative)
            mapping[image_url] = relative
            images.append(image_url)
        known = questions.facts(entity)
        noun = questions.NOUNS[entity.category][0]
        pages[url(entity)] = {
            "title": entity.title,
            "url": url(entity),
            "section_titles": [entity.title, "Collection"],
            "section_texts": [
                f"{entity.title} is a {noun} of the built-in museum.",
                f"It is shown in the {known['hall']} under catalogue number {known['number']} "
                f"and entered the collection in {known['year']}.",
            ],
            "image_urls": images,
            "image_reference_descriptions": [f"Picture of {entity.title}"] * len(images),
            "image_section_indices": [0] * len(images),
        }
    write_json(root / "encyclopedic_kb_wiki.json", pages)
    write_json(root / "url_to_path_mapping.json", mapping)


def _write_query(
    root: Path,
    split: Split,
    index: int,
    rng: np.random.Generator,
    boxes: list[dict[str, Any]],
    paths: dict[str, dict[str, str]],
) -> dict[str, str]:
    """Draws one query, writes its image and returns its row of the table."""
    kind = kinds.KINDS[rng.choice(len(kinds.KINDS), p=list(kinds.SHARES.values()))]
    target, cast, unseen = cast_of(rng, split, kind)
    scene = kinds.compose(rng, kind, cast, SIZES[rng.integers(len(SIZES))])
    question, answer = questions.ask(rng, target)
    category = sorted(questions.NOUNS).index(target.category)
    if target.category in LIVING:
        dataset, image_id = "inaturalist", str(1_000_000 * SPLITS.index(split) + index)
        relative = f"{category:05d}_{target.category.replace(' ', '_')}/{image_id}.jpg"
        paths["train" if split == "train" else "val"][image_id] = relative
        path = root / "inaturalist" / relative
    else:
        dataset, image_id = "landmarks", f"{int(rng.integers(2**63)):016x}"
        path = root / "google-landmarks" / Path(*image_id[:3]) / f"{image_id}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    scene.image.save(path, quality=92)
    box = list(scene.reference)  # the whole image where that is what tells
    stands_out = scene.rivals[0][1] if scene.rivals else None
    boxes.append(
        {
            "dataset_name": dataset,
            "image_id": image_id,
            "box_px": box,
            "salient_px": stands_out,  # for `regionr1 data builtin-premise`; readers pass it over
        }
    )
    return {
        "wikipedia_title": target.title,
        "wikipedia_url": url(target),
        "question_original": question,
        "question": question,
        "question_type": "templated",
        "answer": answer,
        "evidence": answer,
        "evidence_section_id": "1",
        "evidence_section_title": "Collection",
        "dataset_name": dataset,
        "dataset_category_id": str(category),
        "wikipedia_url_used_in_train": str(split == "train"),
        "encyclopedic_vqa_split": split,
        "dataset_image_ids": image_id,
        "subset": f"{kind}, unseen style" if unseen else kind,
    }
