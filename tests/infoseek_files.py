"""Miniatures of InfoSeek's files: the official ones, and EchoSight's."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path

from evqa_files import COLOURS, HEADER, save_image, write_json

from regionr1.data.readers.infoseek import held_out

TYPES = ("String", "Numerical", "Time")
EVALS = (
    ["here", "Here!"],
    [{"wikidata": 10.0, "range": [9.0, 11.0]}],
    ["1990", "20 December 1990"],
)


def entities() -> list[str]:
    """Five entities by number of colour; the last is one that `held_out` gives to val."""
    numbers = iter(range(10_000))
    plain = [qid for n in range(50) if not held_out(qid := f"Q{n + 100}")][:4]
    return [*plain, next(qid for n in numbers if held_out(qid := f"Q{n + 1000}"))]


def url_of(qid: str) -> str:
    """Page of an entity in EchoSight's knowledge base; held out like its Wikidata id."""
    numbers = iter(range(10_000))
    urls = (f"https://en.wikipedia.org/wiki/%C3%89_{qid}_{n}" for n in numbers)
    return next(url for url in urls if held_out(url) == held_out(qid))


def make_infoseek(root: Path, echosight: bool, sizes: tuple[int, int] = (10, 6)) -> Path:
    """Write train and val questions over five entities of one colour each, and return the folder.

    Images lie flat, nested, with other extensions and through OVEN's table, in turn.

    Args:
        root: An existing folder.
        echosight: EchoSight's CSV and knowledge base instead of the official ones.
        sizes: Questions of train and val.
    """
    rng = random.Random(3)
    ids = entities()
    table = []
    number = 4_900_000
    for part, size in zip(("train", "val"), sizes, strict=True):
        questions, withkb, qtypes, rows = [], [], [], []
        for n in range(size):
            number += 1
            image_id, data_id, entity = f"oven_{number:08d}", f"infoseek_{part}_{n:08d}", n % 5
            name = (
                f"{image_id}.jpg",
                f"{image_id[-8:-6]}/{image_id}.JPEG",
                f"{image_id[-8:-6]}/{image_id}.png",
                f"aircraft/{number}.jpg",
            )[n % 4]
            save_image(root / "oven_images" / name, COLOURS[entity], rng)
            if n % 4 == 3:
                table.append(f"{image_id},{name}\n")
            split = (
                "train" if part == "train" else ("val_unseen_question", "val_unseen_entity")[n % 2]
            )
            questions.append(
                {
                    "data_id": data_id,
                    "image_id": image_id,
                    "question": f"What is \u00e9 {n}?",
                    "answer": ["here"],
                    "answer_eval": EVALS[n % 3],
                    "data_split": split,
                }
            )
            withkb.append({"data_id": data_id, "entity_id": ids[entity], "entity_text": "x"})
            qtypes.append({"data_id": data_id, "question_type": TYPES[n % 3]})
            values = {
                "wikipedia_title": ids[entity],
                "wikipedia_url": url_of(ids[entity]),
                "question_original": f"What is {n}?",
                "question": f"What is \u00e9 {n}?",
                "question_type": "infoseek",
                "answer": "here|there",
                "dataset_name": "infoseek",
                "dataset_image_ids": image_id,
                "data_id": data_id,
            }
            rows.append({name: values.get(name, "0") for name in [*HEADER, "data_id"]})
        if echosight:
            published = "train" if part == "train" else "test"
            path = root / f"infoseek_{published}_filtered.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, [*HEADER, "data_id"])
                writer.writeheader()
                writer.writerows(rows)
        if part == "val" or not echosight:
            write_jsonl(root / f"infoseek_{part}.jsonl", questions)
        if not echosight:
            # Not aligned with the questions, as the publishers warn.
            write_jsonl(root / f"infoseek_{part}_withkb.jsonl", withkb[::-1])
        if part == "val":
            write_jsonl(root / f"infoseek_{part}_qtype.jsonl", qtypes)
    (root / "oven_images" / "ovenid2impath.csv").write_text("".join(table))
    (_write_echosight_kb if echosight else _write_wiki6m)(root, ids, rng)
    return root


def write_jsonl(path: Path, records: list[dict]) -> None:
    """Write JSON Lines with escaped letters, as published."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _write_echosight_kb(root: Path, ids: list[str], rng: random.Random) -> None:
    pages, files = {}, {}
    for entity, qid in enumerate(ids):
        images = [f"https://upload.wikimedia.org/{qid}/{n}.jpg" for n in range(2)]
        for n, image in enumerate(images):
            files[image] = f"wiki_images/{qid}_{n}.jpg"
            save_image(root / files[image], COLOURS[entity], rng)
        pages[url_of(qid)] = {
            "title": qid,
            "url": url_of(qid),
            "section_titles": [qid],
            "section_texts": [f"{qid} is a thing."],
            "image_urls": images,
            "image_reference_descriptions": [None, None],
            "image_section_indices": [0, 0],
        }
    write_json(root / "wiki_100_dict_v4.json", pages)
    write_json(root / "url_to_path_mapping.json", files)


def _write_wiki6m(root: Path, ids: list[str], rng: random.Random) -> None:
    lines = []
    for entity, qid in enumerate(ids):
        save_image(root / "wikipedia_images_full" / qid[:4] / f"{qid}.jpg", COLOURS[entity], rng)
        article = {
            "wikidata_id": qid,
            "wikipedia_title": f"Thing {qid}",
            "wikipedia_content": "It is a thing.## Notes.More.",
            "wikipedia_image_url": f"https://upload.wikimedia.org/{qid}.jpg",
        }
        lines.append(json.dumps(article) + "\n")
    lines.append(json.dumps({"wikidata_id": "Q7", "wikipedia_title": "No picture"}) + "\n")
    with gzip.open(root / "Wiki6M_ver_1_0.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(lines)
