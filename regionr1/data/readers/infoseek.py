"""Reader of InfoSeek: the official JSON Lines, or EchoSight's CSV, with OVEN's images.

The public test split has no answers, so Region-R1 tests on val, and so does this reader: its
``test`` is InfoSeek's val with both parts (unseen question, unseen entity), and its ``val`` is a
share of InfoSeek's train, held out by entity.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regionr1.data.readers.base import NO_IMAGE_ID, Source
from regionr1.data.readers.kb import read_entities
from regionr1.data.readers.kb_images import KbImages
from regionr1.data.readers.key_index import KeyIndex
from regionr1.data.readers.query_images import OvenImages
from regionr1.data.readers.tables import csv_rows, first_existing, json_lines, shown, text_of
from regionr1.data.readers.wiki6m import WIKI6M_NAMES, read_wiki6m
from regionr1.data.records import Entity, MissingImage, Query, SkipReport
from regionr1.data.seen import Seen
from regionr1.errors import UserError

HELD_OUT = 50
"""One in this many training entities makes up ``val``."""

ECHOSIGHT_KB = "wiki_100_dict_v4.json"
ECHOSIGHT_CSV = {"train": "infoseek_train_filtered.csv", "val": "infoseek_test_filtered.csv"}
CSV_COLUMNS = ("question", "question_type", "wikipedia_url", "dataset_image_ids", "data_id")
QTYPES = "infoseek_val_qtype.jsonl"
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")  # it becomes part of file names
RECORD_KEYS = ("data_id", "question", "data_split")


class InfoseekSource(Source):
    """Files of one InfoSeek folder; folders in it may be links.

    The knowledge base decides what an entity is. With EchoSight's ``wiki_100_dict_v4.json``, it is
    a Wikipedia URL: questions come from EchoSight's ``infoseek_train_filtered.csv`` and
    ``infoseek_test_filtered.csv``. With ``Wiki6M_ver_1_0.jsonl.gz``, it is a Wikidata id:
    questions come from ``infoseek_train.jsonl`` and ``infoseek_val.jsonl``, entities from
    ``infoseek_{train,val}_withkb.jsonl``, joined by ``data_id``. Question types come from
    ``infoseek_val_qtype.jsonl``, parts of val from ``infoseek_val.jsonl``, where those are there.
    Images lie in ``oven_images/``, as `regionr1.data.readers.query_images.OvenImages` reads them.

    Args:
        root: The folder.
        kb: Name of the knowledge-base file in it; None takes EchoSight's if its questions are there
            too, else Wiki6M.

    Raises:
        UserError: The folder does not exist.
    """

    name = "infoseek"

    def __init__(self, root: Path, kb: str | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root}: no such folder; name the one that holds InfoSeek's files.")
        names = (ECHOSIGHT_KB, *WIKI6M_NAMES)
        if not any((self.root / name).is_file() for name in ECHOSIGHT_CSV.values()):
            names = (*WIKI6M_NAMES, ECHOSIGHT_KB)  # whose questions would be missing
        self.kb_path = first_existing(self.root, (kb,) if kb else names)
        self.by_url = self.kb_path.suffix == ".json"
        self.kb_images = KbImages(self.root)
        self.oven = OvenImages(self.root / "oven_images")
        self._joins: dict[str, KeyIndex] = {}

    def entities(self, report: SkipReport) -> Iterator[Entity]:
        """Yield the pages of the knowledge base."""
        if self.by_url:
            return read_entities(self.kb_path, self.kb_images)
        return read_wiki6m(self.kb_path, self.root, report)

    def files(self, split: str) -> list[Path]:
        """Text files that decide what ``split`` contains, those that exist, in a fixed order."""
        part = _part(split)
        names = [f"infoseek_{part}{end}.jsonl" for end in ("", "_withkb", "_qtype")]
        paths = [self.root / name for name in (ECHOSIGHT_CSV[part], *names)]
        return [path for path in (*paths, *self.oven.files()) if path.is_file()]

    def kb_files(self) -> list[Path]:
        """The knowledge base and, for EchoSight's, the tables of its image files."""
        paths = [self.kb_path, *(self.kb_images.sources if self.by_url else [])]
        return [path for path in paths if path.is_file()]

    def missing(self) -> list[str]:
        """Say what this layout needs and the folder lacks, one sentence each."""
        needed = [self.kb_path, self.oven.root]
        if self.by_url:
            needed += [*self.kb_images.sources, *(self.root / n for n in ECHOSIGHT_CSV.values())]
        else:
            for part in ("train", "val"):
                needed += [self.root / f"infoseek_{part}{end}.jsonl" for end in ("", "_withkb")]
        found = [
            f"{path.relative_to(self.root)} is missing" for path in needed if not path.exists()
        ]
        if not (self.root / QTYPES).is_file():
            found.append(
                f"{QTYPES} is missing: types are told by the questions' file, where a range tells "
                "numerical and a time looks like any string"
            )
        return found

    def read(self, split: str, report: SkipReport) -> Iterator[Query | MissingImage]:
        """Yield every question; ``val`` and ``train`` share out InfoSeek's train by entity."""
        part = _part(split)
        read = self._echosight if self.by_url else self._official
        seen = Seen()
        for where, data_id, image_id, question, gold, kind, subset in read(part, report):
            if part == "train" and (split == "val") != held_out(gold):
                continue
            if not image_id:
                report.add(NO_IMAGE_ID, where)
                continue
            for name, value in (("data_id", data_id), ("image id", image_id)):
                if not _ID.fullmatch(value):
                    raise UserError(f"{where}: {shown(value)} is no {name}.")
            if seen.add(data_id):
                report.add("question of a data_id that came before", where)
                continue
            path = self.find_image(self.oven, image_id, "", where)
            if isinstance(path, str):
                yield MissingImage(where, path, kind, "oven", (gold,), subset)
                continue
            yield Query(
                key=data_id,
                image_path=path,
                question=question,
                gold_ids=(gold,),
                cluster=gold,
                question_type=kind,
                source="oven",
                split=split,
                data_id=data_id,
                subset=subset,
            )

    def questions_path(self, split: str) -> Path:
        """The CSV or JSON Lines of the part that a split reads."""
        part = _part(split)
        return self.root / (ECHOSIGHT_CSV[part] if self.by_url else f"infoseek_{part}.jsonl")

    def _echosight(
        self, part: str, report: SkipReport
    ) -> Iterator[tuple[str, str, str, str, str, str, str]]:
        path = self.root / ECHOSIGHT_CSV[part]
        for line, row in csv_rows(path, CSV_COLUMNS, "EchoSight's InfoSeek questions"):
            where = f"{path}:{line}"
            for name in CSV_COLUMNS:
                if name != "dataset_image_ids":
                    text_of(row, name, where)
            data_id = row["data_id"].strip()
            kind = self._joined("qtype", part, data_id) or row["question_type"].strip()
            subset = self._joined("", part, data_id) or ""
            image_id = row["dataset_image_ids"].strip()
            gold = row["wikipedia_url"].strip()
            yield where, data_id, image_id, row["question"].strip(), gold, kind.lower(), subset

    def _official(
        self, part: str, report: SkipReport
    ) -> Iterator[tuple[str, str, str, str, str, str, str]]:
        path = self.root / f"infoseek_{part}.jsonl"
        for line, record in json_lines(path, RECORD_KEYS, "InfoSeek's questions"):
            where = f"{path}:{line}"
            values = {name: text_of(record, name, where) for name in RECORD_KEYS}
            image_id = record.get("image_id") or ""
            if not isinstance(image_id, str):
                raise UserError(f"{where}: {shown(image_id)} is no image id.")
            data_id = values["data_id"]
            gold = self._joined("withkb", part, data_id)
            if gold is None:
                report.add("question without an entity in withkb", where)
                continue
            kind = self._joined("qtype", part, data_id) or answer_type(record)
            subset = _subset(values["data_split"], part)
            image_id = image_id.strip()
            yield where, data_id, image_id, values["question"], gold, kind.lower(), subset

    def _joined(self, table: str, part: str, data_id: str) -> str | None:
        """The value that a file of ``data_id`` lines has for a question, or None.

        The tables are ``withkb`` (entity), ``qtype`` (question type) and "" (part of the split).
        """
        end = f"_{table}" if table else ""
        path = self.root / f"infoseek_{part}{end}.jsonl"
        key = {"withkb": "entity_id", "qtype": "question_type", "": "data_split"}[table]
        if path.name not in self._joins:
            if not path.is_file():
                if table == "withkb":
                    raise UserError(f"{path}: the entities of InfoSeek's questions are missing.")
                return None

            def lines() -> Iterator[tuple[str, str]]:
                seen = Seen()
                for _, record in json_lines(path, (), path.name):
                    name, value = record.get("data_id"), record.get(key)
                    # A line that says nothing leaves its question without, which is counted.
                    if isinstance(name, str) and isinstance(value, str) and value.strip():
                        if not seen.add(name):
                            yield name, value.strip()

            self._joins[path.name] = KeyIndex(path, path.name, lines)
        value = self._joins[path.name].get(data_id)
        if table == "" and value is not None:
            return _subset(value, part)
        return value


def held_out(entity: str) -> bool:
    """Whether a training entity belongs to ``val``: the same answer everywhere, for ever."""
    return hashlib.sha256(entity.encode()).digest()[0] % HELD_OUT == 0


def answer_type(record: dict[str, Any]) -> str:
    """``numerical`` where answer_eval holds a range, else ``string`` (Time looks the same)."""
    references = record.get("answer_eval")
    first = references[0] if isinstance(references, list) and references else references
    return "numerical" if isinstance(first, dict) else "string"


def _subset(data_split: str, part: str) -> str:
    """``val_unseen_entity`` -> ``unseen_entity``, ``train`` -> nothing."""
    return data_split.removeprefix(part).lstrip("_")


def _part(split: str) -> str:
    """The published part that a split reads."""
    return "val" if split == "test" else "train"
