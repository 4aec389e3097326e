"""The query store: a vector for each image of a split, and the questions that are asked about it.

The rows are the images, in the order in which the split first names them. ``rows.sqlite`` has the
questions too, in the order of their file. A question's number, by which pools are stored, is
counted image by image.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from regionr1.data.build.store import EmbeddingStore
from regionr1.data.records import Query

QUERY_FORMAT = "regionr1-queries 2"
UNREADABLE = "unreadable query image"


class QueryStore(EmbeddingStore):
    """The complete query store of a split.

    Args:
        folder: The store.
        mend: What to do when it is missing or incomplete, for the error messages.

    Attributes:
        starts: (N + 1,) for each of N images the number of its first question, then their total.

    Raises:
        UserError: Missing, incomplete, damaged, or with a vector per question as it once was.
    """

    format = QUERY_FORMAT

    def __init__(self, folder: Path, mend: str) -> None:
        super().__init__(folder, mend)
        counts = np.zeros(len(self) + 1, dtype=np.int64)
        for row, n in self._ask("SELECT row, count(*) FROM questions GROUP BY row"):
            counts[row + 1] = n
        self.starts = np.cumsum(counts)

    @property
    def n_questions(self) -> int:
        """How many questions there are about all images."""
        return int(self.starts[-1])

    def questions(self, row: int) -> list[Query]:
        """The questions about an image, whose path is relative to the data folder."""
        query = "SELECT line FROM questions WHERE row = ? ORDER BY position"
        return [_query_of(line) for (line,) in self._ask(query, int(row))]


def question_line(query: Query, image: str) -> str:
    """A question as the store keeps it, with its image relative to the data folder."""
    record = {**asdict(query), "image": image}
    del record["image_path"]
    return json.dumps(record, ensure_ascii=False) + "\n"


def write_questions(db: sqlite3.Connection, lines: Iterable[str]) -> tuple[int, int, str]:
    """Write the questions beside the rows of their images.

    Args:
        db: Has the rows of the images.
        lines: Of `question_line`, in file order.

    Returns:
        How many questions there are, how many were left out for want of their image, and a digest
        of all.
    """
    db.execute("CREATE TABLE questions (position INTEGER PRIMARY KEY, row INTEGER, line TEXT)")
    digest, n, lost = hashlib.sha256(), 0, 0
    for line in lines:
        digest.update(line.encode())
        image = json.loads(line)["image"]
        row = db.execute("SELECT row FROM rows WHERE owner = ?", (image,)).fetchone()
        if row is None:
            lost += 1
            continue
        db.execute("INSERT INTO questions VALUES (?, ?, ?)", (n, row[0], line))
        n += 1
    db.execute("CREATE INDEX asked ON questions (row)")
    return n, lost, digest.hexdigest()


def _query_of(line: str) -> Query:
    record = json.loads(line)
    image, box = record.pop("image"), record.pop("reference_box_px")
    return Query(
        image_path=Path(image),
        gold_ids=tuple(record.pop("gold_ids")),
        reference_box_px=None if box is None else (box[0], box[1], box[2], box[3]),
        **record,
    )
