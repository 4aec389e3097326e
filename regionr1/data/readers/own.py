"""Reader of your own data: JSON Lines of queries and of entities."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regionr1.data.readers.base import SPLITS, Source
from regionr1.data.readers.tables import json_lines, read_box, resolve_inside, shown, text_of
from regionr1.data.records import Entity, MissingImage, Query, SkipReport
from regionr1.data.seen import Seen
from regionr1.errors import UserError

_KEY = re.compile(r"[^A-Za-z0-9_-]")


class OwnSource(Source):
    """A folder with ``train.jsonl``, ``val.jsonl``, ``test.jsonl`` and ``entities.jsonl``.

    A query is ``{"image": "pictures/1.jpg", "question": "...", "gold": ["entity id"]}`` with
    optional ``id``, ``type``, ``source``, ``subset`` and ``box_px``; an entity is
    ``{"id": "...", "title": "...", "images": ["pictures/2.jpg"]}`` with optional ``text``. Paths
    are relative to the folder.

    Args:
        root: The folder.
        kb: Name of the file of entities; None for ``entities.jsonl``.

    Raises:
        UserError: The folder does not exist.
    """

    name = "own"

    def __init__(self, root: Path, kb: str | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root}: no such folder; name the one that holds your JSON Lines.")
        self.kb_path = self.root / (kb or "entities.jsonl")

    def entities(self, report: SkipReport) -> Iterator[Entity]:
        """Yield the entities in file order."""
        seen = Seen()
        for line, record in json_lines(self.kb_path, ("id", "title", "images"), "the entities"):
            where = f"{self.kb_path}:{line}"
            entity_id, title = text_of(record, "id", where), text_of(record, "title", where)
            if seen.add(entity_id):
                raise UserError(f"{where}: id {entity_id!r} occurs twice; keep one.")
            text = record.get("text", "")
            if not isinstance(text, str):
                raise UserError(f"{where}: 'text' must be a text, got {shown(text)}.")
            named = [
                resolve_inside(self.root, name, where) for name in _texts(record, "images", where)
            ]
            found = tuple(path for path in named if path.is_file())
            yield Entity(
                id=entity_id,
                title=title,
                text=f"{title}\n{text}".strip(),
                image_paths=found,
                n_unresolved=len(named) - len(found),
            )

    def questions_path(self, split: str) -> Path:
        """The JSON Lines of a split."""
        return self.root / f"{split}.jsonl"

    def files(self, split: str) -> list[Path]:
        """The queries of a split."""
        path = self.questions_path(split)
        return [path] if path.is_file() else []

    def kb_files(self) -> list[Path]:
        """Name the files of the knowledge base."""
        return [self.kb_path] if self.kb_path.is_file() else []

    def missing(self) -> list[str]:
        """Say what this layout needs and the folder lacks, one sentence each."""
        needed = [self.kb_path, *(self.root / f"{split}.jsonl" for split in SPLITS)]
        return [f"{path.relative_to(self.root)} is missing" for path in needed if not path.exists()]

    def read(self, split: str, report: SkipReport) -> Iterator[Query | MissingImage]:
        """Yield every query of a split in file order."""
        path = self.questions_path(split)
        seen = Seen()
        for line, record in json_lines(path, ("image", "question", "gold"), "the queries"):
            where = f"{path}:{line}"
            query_id = text_of(record, "id", where) if "id" in record else f"{split}-{line:07d}"
            if seen.add(query_id):
                raise UserError(f"{where}: id {query_id!r} occurs twice; keep one.")
            gold = _texts(record, "gold", where)
            if not gold:
                raise UserError(f"{where}: 'gold' names no entity.")
            kind, source, subset = (
                text_of(record, name, where) if name in record else default
                for name, default in (("type", "own"), ("source", "own"), ("subset", ""))
            )
            image = resolve_inside(self.root, record["image"], where)
            if not image.is_file():
                yield MissingImage(where, f"file {image}", kind, source, tuple(gold), subset)
                continue
            box = record.get("box_px")
            yield Query(
                key=f"{split}-{line:07d}-{_KEY.sub('_', query_id)}",
                image_path=image,
                question=text_of(record, "question", where),
                gold_ids=tuple(gold),
                cluster="|".join(gold),
                question_type=kind,
                source=source,
                split=split,
                reference_box_px=None if box is None else read_box(box, where, image),
                data_id=query_id,
                subset=subset,
            )


def _texts(record: dict[str, Any], name: str, where: str) -> list[str]:
    value = record[name]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise UserError(f"{where}: {name!r} must be a list of texts, got {shown(value)}.")
    return value
