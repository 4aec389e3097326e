"""Reader of Encyclopedic-VQA's published layout: question CSVs, image ids and the KB."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from regionr1.data.kb import load_json_object, read_entities, resolve_inside
from regionr1.data.records import Box, Entity, Query, SkipReport
from regionr1.errors import UserError

REQUIRED = ("question", "question_type", "wikipedia_url", "dataset_name", "dataset_image_ids")
SPLITS = ("train", "val", "test")
_IMAGE_ID = re.compile(r"[A-Za-z0-9_-]+")


class EvqaSource:
    """Files of one E-VQA folder.

    Expected under ``root``: ``train.csv``, ``val.csv``, ``test.csv``; the knowledge base and
    ``url_to_path_mapping.json`` (KB image URL to a path relative to ``root``);
    ``inaturalist/{train,val}_id2name.json`` with the files they name beside them; landmarks as
    ``google-landmarks/<a>/<b>/<c>/<id>.jpg``; optionally ``reference_boxes.jsonl`` with lines
    ``{"dataset_name", "image_id", "box_px": [x1, y1, x2, y2]}``.

    Args:
        root: The folder.
        kb: Name of the knowledge-base file in it.
        include_two_hop: Keep ``2_hop`` questions, with both pages as gold. Like the published
            retrieval evaluations, the default leaves them out, and counts them.

    Raises:
        UserError: The folder does not exist.
    """

    name = "evqa"

    def __init__(
        self, root: Path, kb: str = "encyclopedic_kb_wiki.json", include_two_hop: bool = False
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root}: no such folder; name the one that holds E-VQA's files.")
        self.kb_path = self.root / kb
        self.mapping_path = self.root / "url_to_path_mapping.json"
        self.include_two_hop = include_two_hop
        self._image_names: dict[str, dict[str, Any]] = {}

    def entities(self) -> Iterator[Entity]:
        """Yield the pages of the knowledge base; see `regionr1.data.kb.read_entities`."""
        return read_entities(self.kb_path, self.mapping_path, self.root)

    def files(self, split: str) -> list[Path]:
        """Text files that decide what ``split`` contains, those that exist, in a fixed order."""
        names = [f"{split}.csv", "reference_boxes.jsonl"]
        names += [f"inaturalist/{part}_id2name.json" for part in ("train", "val")]
        paths = [self.root / name for name in names] + [self.kb_path, self.mapping_path]
        return [path for path in paths if path.is_file()]

    def queries(self, split: str, report: SkipReport, skip_missing: bool = False) -> list[Query]:
        """Read every image-question pair of a split, and check that its image file exists.

        Args:
            split: ``train``, ``val`` or ``test``.
            report: Receives what is left out and why.
            skip_missing: Leave out and count queries without an image file instead of raising.

        Raises:
            UserError: A malformed row (named by file and line), or missing image files.
        """
        path = self.root / f"{split}.csv"
        queries: list[Query] = []
        missing: list[str] = []
        for row_number, (line, row) in enumerate(_rows(path)):
            where = f"{path}:{line}"
            image_ids = self._check_row(row, split, where)
            if row["question_type"] == "2_hop" and not self.include_two_hop:
                report.add("2_hop question", where, n=len(image_ids))
                continue
            gold_ids = tuple(row["wikipedia_url"].strip().split("|"))
            for n, image_id in enumerate(image_ids):
                image_path = self._image_path(row["dataset_name"], image_id, split, where)
                if isinstance(image_path, str):
                    missing.append(f"{where}: {image_path}")
                    continue
                queries.append(
                    Query(
                        key=f"{split}-{row_number:07d}-{n}",
                        image_path=image_path,
                        question=row["question"].strip(),
                        gold_ids=gold_ids,
                        cluster=row["wikipedia_url"].strip(),
                        question_type=row["question_type"],
                        source=row["dataset_name"],
                        split=split,
                        reference_box_px=self._boxes.get((row["dataset_name"], image_id)),
                    )
                )
        if missing and not skip_missing:
            raise UserError(
                f"{len(missing)} of {len(queries) + len(missing)} query images of {path} are "
                f"missing, the first at {missing[0]}; add them, or allow skipping missing images."
            )
        for example in missing:
            report.add("missing query image", example)
        return queries

    def _check_row(self, row: dict[str, str], split: str, where: str) -> list[str]:
        """Check one row's fields and return its image ids."""
        for name in REQUIRED:
            if not row[name].strip():
                raise UserError(f"{where}: column {name!r} is empty; every question needs it.")
        named_split = row.get("encyclopedic_vqa_split", "")
        if named_split in SPLITS and named_split != split:
            raise UserError(f"{where}: row belongs to split {named_split!r}; move it there.")
        if not all(row["wikipedia_url"].strip().split("|")):
            raise UserError(f"{where}: column 'wikipedia_url' has an empty part.")
        image_ids = row["dataset_image_ids"].strip().split("|")
        for image_id in image_ids:
            if not _IMAGE_ID.fullmatch(image_id):
                raise UserError(f"{where}: {image_id!r} is not an image id.")
        return image_ids

    def _image_path(self, dataset: str, image_id: str, split: str, where: str) -> Path | str:
        """The image file of an id, or the reason why there is none."""
        if dataset == "landmarks":
            if len(image_id) < 3:
                raise UserError(f"{where}: landmark image id {image_id!r} is too short.")
            path = self.root / "google-landmarks" / Path(*image_id[:3]) / f"{image_id}.jpg"
        elif dataset == "inaturalist":
            # E-VQA takes its val and test images from iNaturalist's val part.
            part = "train" if split == "train" else "val"
            names_path = self.root / "inaturalist" / f"{part}_id2name.json"
            if part not in self._image_names:
                what = "the mapping of iNaturalist image ids to files"
                self._image_names[part] = load_json_object(names_path, what)
            name = self._image_names[part].get(image_id)
            if name is None:
                return f"image id {image_id} is not in {names_path}"
            path = resolve_inside(self.root / "inaturalist", name, f"{names_path}, id {image_id}")
        else:
            raise UserError(
                f"{where}: dataset_name {dataset!r} is unknown; use 'inaturalist' or 'landmarks'."
            )
        return path if path.is_file() else f"file {path}"

    @cached_property
    def _boxes(self) -> dict[tuple[str, str], Box]:
        path = self.root / "reference_boxes.jsonl"
        if not path.is_file():
            return {}
        boxes: dict[tuple[str, str], Box] = {}
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                record = json.loads(line)
                x1, y1, x2, y2 = (float(value) for value in record["box_px"])
                key = (str(record["dataset_name"]), str(record["image_id"]))
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"{path}:{number}: expected dataset_name, image_id and box_px with 4 numbers."
                ) from error
            if not (all(map(math.isfinite, (x1, y1, x2, y2))) and x1 < x2 and y1 < y2):
                raise UserError(f"{path}:{number}: box_px must have x1 < x2 and y1 < y2.")
            boxes[key] = (x1, y1, x2, y2)
        return boxes


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield ``(line number, row by column name)`` of a CSV file."""
    # The module's limit of 128 KB is below the longest evidence fields.
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 24))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                header = next(reader, [])
                absent = [name for name in REQUIRED if name not in header]
                if absent:
                    raise UserError(f"{path}:1: the header has no column {absent[0]!r}.")
                for fields in reader:
                    if not fields:
                        continue
                    if len(fields) != len(header):
                        raise UserError(
                            f"{path}:{reader.line_num}: {len(fields)} fields where the header "
                            f"has {len(header)}; quote fields that hold commas."
                        )
                    yield reader.line_num, dict(zip(header, fields, strict=True))
            except csv.Error as error:
                raise UserError(f"{path}:{reader.line_num}: malformed CSV ({error}).") from error
    except FileNotFoundError:
        raise UserError(f"{path}: the questions of this split are missing; add the file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; fetch it again.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
