"""Embeddings on disk: written part by part, resumable, read by row number.

A store is a folder: ``identity.json`` says what it was made from and is written first;
``part-000000.npy`` (vectors), ``.jsonl`` (what each row is) and ``.json`` (counts, written last)
hold the rows; ``rows.sqlite`` and ``complete.json`` appear when every part is there. A part without
its ``.json`` does not count, so a killed run loses at most the part it was at.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from regionr1.data.npy import map_npy, unit
from regionr1.data.records import SkipReport
from regionr1.errors import MachineError, UserError
from regionr1.files import read_json

FORMAT = "regionr1-embeddings 1"
_KEPT = ("rows", "owners", "entities", "questions")
_OPEN_PARTS = 64
"""Parts that are open at a time: a knowledge base has more than a process may open files."""

_DAMAGED = "remove the folder and embed again"


def store_digest(identity: dict[str, Any], items: str) -> str:
    """Digest of a store with this identity and these items."""
    text = json.dumps([identity, items], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def part_path(folder: Path, number: int, end: str) -> Path:
    """Return the file that holds a part of the store."""
    return folder / f"part-{number:06d}.{end}"


class EmbeddingStore:
    """A complete store.

    Args:
        folder: The store.
        mend: What to do when it is missing or incomplete, for the error messages.

    Attributes:
        identity: What it was made from; ``scorer`` is the scorer's fingerprint.
        counts: Numbers of rows, owners and what was left out.
        left_out: What was left out, with where the first case of each reason is.

    Raises:
        UserError: Missing, incomplete or damaged.
    """

    format = FORMAT

    def __init__(self, folder: Path, mend: str) -> None:
        self.folder = folder
        self.identity = read_json(folder / "identity.json", mend)
        if self.identity.get("format") != self.format:
            raise UserError(
                f"{folder}: not of format {self.format!r}; remove this folder only and {mend}, "
                "which keeps the embeddings beside it."
            )
        complete = read_json(folder / "complete.json", f"incomplete: {mend}")
        self.counts: dict[str, int] = complete["counts"]
        left_out = {name: n for name, n in self.counts.items() if name not in _KEPT}
        self.left_out = SkipReport.of(left_out, complete.get("examples", {}))
        self._starts: list[int] = complete["starts"]
        self._items: str = complete["items"]
        self.dim: int = complete["dim"]
        self._parts: OrderedDict[int, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return self.counts["rows"]

    def summary(self) -> list[str]:
        """What the store holds and what was left out of it, as lines for people."""
        asked = f" of {self.counts['questions']:,} questions" if "questions" in self.counts else ""
        lines = [f"{len(self):,} images{asked}", *self.left_out.lines()]
        return [f"{self.folder.name}: {line}" for line in lines]

    @property
    def digest(self) -> str:
        """What the store was made from: scorer, files, and every image by name and size."""
        return store_digest(self.identity, self._items)

    @cached_property
    def _db(self) -> sqlite3.Connection:
        uri = f"{(self.folder / 'rows.sqlite').resolve().as_uri()}?mode=ro"
        return sqlite3.connect(uri, uri=True, check_same_thread=False)

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Unit vectors (N, D) float32 of rows, read from disk."""
        wanted = np.asarray(rows, dtype=np.int64)
        found = np.empty((len(wanted), self.dim), dtype=np.float32)
        parts = np.searchsorted(self._starts, wanted, side="right") - 1
        for part in np.unique(parts):
            here = parts == part
            found[here] = self._part(int(part))[wanted[here] - self._starts[part]]
        return unit(found)

    def blocks(self) -> Iterator[np.ndarray]:
        """All vectors in row order, a part at a time, float32."""
        for part in range(len(self._starts)):
            block = np.asarray(self._part(part), dtype=np.float32)
            if len(block):
                yield unit(block)

    def row(self, row: int) -> tuple[str, str]:
        """Owner and data of a row."""
        found = self._first("SELECT owner, data FROM rows WHERE row = ?", int(row))
        if found is None:
            raise UserError(f"{self.folder}: has no row {row}; {_DAMAGED}.")
        return found[0], found[1]

    def rows_of(self, owner: str) -> list[int]:
        """Return the rows of one owner's images."""
        query = "SELECT row FROM rows WHERE owner = ? ORDER BY row"
        return [row for (row,) in self._ask(query, owner)]

    def find(self, owner: str, data: str) -> int | None:
        """The first row of an owner with this data."""
        query = "SELECT min(row) FROM rows WHERE owner = ? AND data = ?"
        return self._ask(query, owner, data)[0][0]

    def knows(self, owner: str) -> bool:
        """Whether the knowledge base has this entity, with or without a usable image."""
        query = "SELECT 1 FROM entities WHERE id = ?"
        return self._first(query, owner) is not None

    def entity_without_image(self) -> str | None:
        """The first entity of the knowledge base without a usable image; None if all have one."""
        query = (
            "SELECT id FROM entities WHERE NOT EXISTS "
            "(SELECT 1 FROM rows WHERE owner = id) ORDER BY position LIMIT 1"
        )
        found = self._first(query)
        return None if found is None else found[0]

    def entity_at(self, position: int) -> str:
        """The entity at a position of the knowledge base's file."""
        return self._ask("SELECT id FROM entities WHERE position = ?", position)[0][0]

    def _ask(self, query: str, *values: str | int) -> list[Any]:
        path = self.folder / "rows.sqlite"
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:  # among others, too many open files
            if path.is_file():
                raise MachineError(f"{path}: cannot be read ({error}).") from error
            raise UserError(f"{path}: missing; {_DAMAGED}.") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: damaged ({error}); {_DAMAGED}.") from error

    def _first(self, query: str, *values: str | int) -> Any:
        found = self._ask(query, *values)
        return found[0] if found else None

    def _part(self, number: int) -> np.ndarray:
        if number not in self._parts:
            path = part_path(self.folder, number, "npy")
            self._parts[number] = map_npy(path, _DAMAGED)
            if len(self._parts) > _OPEN_PARTS:
                self._parts.popitem(last=False)
        self._parts.move_to_end(number)
        return self._parts[number]
