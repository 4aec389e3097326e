"""Reader of Encyclopedic-VQA's published layout: question CSVs, image ids and the KB."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from regionr1.data.readers.base import NO_IMAGE_ID, SPLITS, Source
from regionr1.data.readers.kb import read_entities
from regionr1.data.readers.kb_images import KbImages
from regionr1.data.readers.query_images import InatImages, LandmarkImages
from regionr1.data.readers.tables import csv_rows, first_existing, json_lines, read_box, shown
from regionr1.data.records import Box, Entity, MissingImage, Query, SkipReport
from regionr1.errors import UserError

REQUIRED = ("question", "question_type", "wikipedia_url", "dataset_name", "dataset_image_ids")
BOX_KEYS = ("dataset_name", "image_id", "box_px")
TWO_HOP = "2_hop"
TYPES = ("templated", "automatic", "multi_answer", TWO_HOP)
CSV_NAMES = {"train": ("train.csv", "train_full_image_cleaned.csv")}
KB_NAMES = ("encyclopedic_kb_wiki.json", "wiki_corpus.json")
_IMAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


class EvqaSource(Source):
    """Files of one E-VQA folder; folders in it may be links.

    Expected under ``root``: ``train.csv``, ``val.csv``, ``test.csv`` (EchoSight's
    ``train_full_image_cleaned.csv`` does too); the knowledge base (OMGM's ``wiki_corpus.json`` is
    the same file) and `regionr1.data.readers.kb_images.KbImages`; ``inaturalist/`` as
    `InatImages` and ``google-landmarks/`` as `LandmarkImages` read them; optionally
    ``reference_boxes.jsonl`` with lines
    ``{"dataset_name", "image_id", "box_px": [x1, y1, x2, y2]}``.

    Args:
        root: The folder.
        kb: Name of the knowledge-base file in it; None for the usual one.
        include_two_hop: Keep ``2_hop`` questions, with both pages as gold. Like the published
            retrieval evaluations, the default leaves them out, and counts them.

    Raises:
        UserError: The folder does not exist.
    """

    name = "evqa"
    has_two_hop = True

    def __init__(self, root: Path, kb: str | None = None, include_two_hop: bool = False) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root}: no such folder; name the one that holds E-VQA's files.")
        self.kb_path = first_existing(self.root, (kb,) if kb else KB_NAMES)
        self.kb_images = KbImages(self.root)
        self.include_two_hop = include_two_hop
        self.landmarks = LandmarkImages(self.root / "google-landmarks")
        # E-VQA takes its val and test images from iNaturalist's val part.
        self.inat = {part: InatImages(self.root / "inaturalist", part) for part in ("train", "val")}

    def entities(self, report: SkipReport) -> Iterator[Entity]:
        """Yield the pages of the knowledge base; see `regionr1.data.readers.kb.read_entities`."""
        return read_entities(self.kb_path, self.kb_images)

    def files(self, split: str) -> list[Path]:
        """Text files that decide what ``split`` contains, those that exist, in a fixed order."""
        inat = self.inat["train" if split == "train" else "val"].files()
        paths = [self.questions_path(split), self.root / "reference_boxes.jsonl", *inat]
        return [path for path in paths if path.is_file()]

    def kb_files(self) -> list[Path]:
        """The knowledge base and the tables of its image files."""
        return [path for path in (self.kb_path, *self.kb_images.sources) if path.is_file()]

    def missing(self) -> list[str]:
        """Say what this layout needs and the folder lacks, one sentence each."""
        needed = [*map(self.questions_path, SPLITS), self.kb_path, *self.kb_images.sources]
        needed += [self.landmarks.root, self.inat["val"].root]
        found = [
            f"{path.relative_to(self.root)} is missing" for path in needed if not path.exists()
        ]
        if self.inat["val"].root.is_dir():
            for part, names in self.inat.items():
                if not names.files():
                    found.append(
                        f"inaturalist/{part}_id2name.json and {part}.json are missing: images "
                        "must be named <id>.jpg"
                    )
        return found

    def read(self, split: str, report: SkipReport) -> Iterator[Query | MissingImage]:
        """Yield every image-question pair; a row with five images gives five."""
        n_single_hop = 0
        rows = csv_rows(self.questions_path(split), REQUIRED, "the questions of this split")
        for row_number, (line, row) in enumerate(rows):
            where = f"{self.questions_path(split)}:{line}"
            image_ids = self._check_row(row, split, where)
            data_id = ""
            if row["question_type"] != TWO_HOP:
                # EchoSight and OMGM number the rows after leaving the two-hop ones out.
                data_id = row.get("data_id") or f"E-VQA_{n_single_hop}"
                n_single_hop += 1
            elif not self.include_two_hop:
                report.add("2_hop question", where, n=max(1, len(image_ids)))
                continue
            if not image_ids:
                report.add(NO_IMAGE_ID, where)
                continue
            kind, source = row["question_type"], row["dataset_name"]
            subset = (row.get("subset") or "").strip()
            gold_ids = tuple(row["wikipedia_url"].strip().split("|"))
            finder = self._finder(source, split, where)
            for n, image_id in enumerate(image_ids):
                category = row.get("dataset_category_id", "")
                path = self.find_image(finder, image_id, category, where)
                if isinstance(path, str):
                    yield MissingImage(where, path, kind, source, gold_ids, subset)
                    continue
                yield Query(
                    key=f"{split}-{row_number:07d}-{n}",
                    image_path=path,
                    question=row["question"].strip(),
                    gold_ids=gold_ids,
                    cluster=row["wikipedia_url"].strip(),
                    question_type=kind,
                    source=source,
                    split=split,
                    reference_box_px=self._box(source, image_id, path),
                    # They look at the first image of a row only.
                    data_id=data_id if n == 0 else "",
                    subset=subset,
                )

    def questions_path(self, split: str) -> Path:
        """The CSV of a split."""
        return first_existing(self.root, CSV_NAMES.get(split, (f"{split}.csv",)))

    def _finder(self, dataset: str, split: str, where: str) -> InatImages | LandmarkImages:
        if dataset == "landmarks":
            return self.landmarks
        if dataset == "inaturalist":
            return self.inat["train" if split == "train" else "val"]
        raise UserError(
            f"{where}: dataset_name {dataset!r} is unknown; use 'inaturalist' or 'landmarks'."
        )

    def _check_row(self, row: dict[str, str], split: str, where: str) -> list[str]:
        """Check one row's fields and return its image ids, none where there are none."""
        for name in REQUIRED[:-1]:
            if not row[name].strip():
                raise UserError(f"{where}: column {name!r} is empty; every question needs it.")
        if row["question_type"] not in TYPES:
            raise UserError(
                f"{where}: question_type {row['question_type']!r} is unknown; E-VQA has "
                f"{', '.join(TYPES)}."
            )
        named_split = row.get("encyclopedic_vqa_split", "")
        if named_split in SPLITS and named_split != split:
            raise UserError(f"{where}: row belongs to split {named_split!r}; move it there.")
        if not all(row["wikipedia_url"].strip().split("|")):
            raise UserError(f"{where}: column 'wikipedia_url' has an empty part.")
        named = row["dataset_image_ids"].strip()
        image_ids = named.split("|") if named else []
        for image_id in image_ids:
            if not _IMAGE_ID.fullmatch(image_id):
                raise UserError(f"{where}: {shown(image_id)} is not an image id.")
        return image_ids

    def _box(self, source: str, image_id: str, image: Path) -> Box | None:
        found = self._boxes.get((source, image_id))
        return None if found is None else read_box(list(found[0]), found[1], image)

    @cached_property
    def _boxes(self) -> dict[tuple[str, str], tuple[Box, str]]:
        path = self.root / "reference_boxes.jsonl"
        if not path.is_file():
            return {}
        boxes: dict[tuple[str, str], tuple[Box, str]] = {}
        for line, record in json_lines(path, BOX_KEYS, "the reference boxes"):
            key = (str(record["dataset_name"]), str(record["image_id"]))
            boxes[key] = read_box(record["box_px"], f"{path}:{line}"), f"{path}:{line}"
        return boxes
