"""Writing an embedding store: any number of processes, each part by one of them, resumable."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from regionr1.data.build.query_store import UNREADABLE, write_questions
from regionr1.data.build.stages import StoreDtype
from regionr1.data.build.store import part_path
from regionr1.data.chunks import chunks
from regionr1.data.npy import map_npy, to_npy
from regionr1.data.records import SkipReport
from regionr1.errors import UserError
from regionr1.files import read_json, refused, whole_file, write_json, write_whole


@dataclass(frozen=True, slots=True)
class Item:
    """Something to embed.

    Attributes:
        owner: Whose it is: the entity, or the query image itself.
        data: Text kept with the row.
        path: Its image.
        text: Its text, for scorers that read one.
        where: What an error about it names; decides nothing.
    """

    owner: str
    data: str
    path: Path
    text: str = ""
    where: str = ""


@dataclass(slots=True)
class Part:
    """Rows that one part of the items gave.

    Attributes:
        items: The items that have a row, in order.
        vectors: (N, D), one per item.
        skipped: Items without a row, by reason.
    """

    items: list[Item]
    vectors: np.ndarray
    skipped: SkipReport = field(default_factory=SkipReport)


@dataclass(frozen=True, slots=True)
class Share:
    """What this process does of the work.

    Attributes:
        rank: Which process this is.
        world_size: How many there are; part n belongs to process n modulo their number.
    """

    rank: int = 0
    world_size: int = 1


ALONE = Share()


def open_for_writing(folder: Path, identity: dict[str, Any], items: Iterable[Item]) -> None:
    """Create a store, or go on with one made from the same.

    Where the files were mended, parts whose items are what they were are kept.

    Args:
        folder: The store.
        identity: What it is made from.
        items: All items, of which few are looked at.

    Raises:
        UserError: It holds embeddings made from something else, which is named.
    """
    path = folder / "identity.json"
    if path.is_file():
        found = read_json(path, "embed again")
        # Through JSON, where tuples are lists.
        differing = [
            name
            for name, value in json.loads(json.dumps(identity)).items()
            if found.get(name) != value
        ]
        if not differing:
            return
        mended = _only_which_items(differing, identity) and _of_one_data_set(folder, items)
        # Without parts, a run failed before it embedded anything.
        if any(folder.glob("part-*")) and not mended:
            raise UserError(
                f"{folder}: holds embeddings made with another {' and another '.join(differing)}; "
                "name another work folder, or remove this one: those beside it are kept."
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, error, "cannot be created") from error
    write_json(path, identity)


def _only_which_items(differing: list[str], identity: dict[str, Any]) -> bool:
    """Whether what differs decides which items there are, and not what an item's row is."""
    if "skip_missing" in differing and not identity["skip_missing"]:
        return False  # what was left out must be met again
    return {*differing} <= {"files", "skip_missing", "two-hop choice"}


def _of_one_data_set(folder: Path, items: Iterable[Item]) -> bool:
    """Whether the first part that has rows has one of an item that is still there."""
    for path in sorted(folder.glob("part-*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        if known := {tuple(json.loads(line)) for line in lines}:
            return any((item.owner, item.data) in known for item in items)
    return True


def write_parts(
    folder: Path,
    items: Iterable[Item],
    embed: Callable[[list[Item]], Part],
    part_size: int,
    dtype: StoreDtype = "float32",
    share: Share = ALONE,
    passed: Callable[[int], object] = lambda n: None,
) -> int:
    """Write the parts of this process that are not there yet.

    Args:
        folder: A store opened with `open_for_writing`.
        items: All items, the same in every process.
        embed: Turns the items of one part into rows.
        part_size: Items of every part but the last.
        dtype: Of the vectors on disk.
        share: Which of the parts this process writes.
        passed: Told the number of items after every part, whoever did it.

    Returns:
        How many parts there are over all processes.

    Raises:
        UserError: The disk is full, or an item cannot be embedded.
    """
    number = 0
    for chunk in chunks(items, part_size):
        mine = number % share.world_size == share.rank
        if mine and not _is_written(folder, number, digest := items_digest(chunk)):
            _write_part(folder, number, embed(chunk), digest, dtype)
        passed(len(chunk))
        number += 1
    return number


def _write_part(folder: Path, number: int, part: Part, digest: str, dtype: StoreDtype) -> None:
    lines = "".join(
        json.dumps([item.owner, item.data], ensure_ascii=False) + "\n" for item in part.items
    )
    vectors = to_npy(part.vectors.astype(dtype))
    write_whole(part_path(folder, number, "npy"), lambda file: file.write(vectors))
    write_whole(part_path(folder, number, "jsonl"), lambda file: file.write(lines.encode()))
    record = {"items": digest, "rows": len(part.items), "skipped": part.skipped.as_dict()}
    write_json(part_path(folder, number, "json"), record | {"examples": part.skipped.first})


def finish(
    folder: Path,
    n_parts: int,
    entities: Iterable[str] = (),
    left_out: SkipReport | None = None,
    questions: Path | None = None,
) -> None:
    """Join the parts of a store whose every part is written.

    Args:
        folder: The store.
        n_parts: How many parts it has.
        entities: For a knowledge base, its entities in file order.
        left_out: What was left out beside what the parts left out.
        questions: For query images, the file of the questions about them, in file order. What is
            left out is then counted in questions.

    Raises:
        UserError: A part is missing, an entity occurs twice, or the disk is full.
    """
    summaries = [read_json(part_path(folder, n, "json"), "embed again") for n in range(n_parts)]
    starts = [0]
    for summary in summaries:
        starts.append(starts[-1] + summary["rows"])
    # More parts than before would be those of an older, longer list of items.
    for path in folder.glob("part-*.json"):
        if int(path.stem.removeprefix("part-")) >= n_parts:
            path.unlink()
    skipped, total = SkipReport(), SkipReport()
    for summary in summaries:
        skipped.include(SkipReport.of(summary["skipped"], summary.get("examples", {})))
    total.include(left_out or SkipReport())
    dim = next(
        (
            map_npy(part_path(folder, n, "npy"), "embed again").shape[1]
            for n, summary in enumerate(summaries)
            if summary["rows"]
        ),
        0,
    )
    items = join_digests(summary["items"] for summary in summaries)
    with whole_file(folder / "rows.sqlite", sqlite3.OperationalError) as partial:
        db = sqlite3.connect(partial)
        numbers = {"rows": starts[-1], **_write_rows(db, folder, n_parts, entities)}
        if questions is None:
            total.include(skipped)
        else:
            with questions.open(encoding="utf-8") as file:
                numbers["questions"], lost, asked = write_questions(db, file)
            items = join_digests([items, asked])
            if lost:
                total.add(UNREADABLE, skipped.first.get(UNREADABLE, ""), lost)
        db.commit()
        db.close()
    numbers |= total.counts
    record = {"counts": numbers, "starts": starts[:-1], "dim": int(dim), "items": items}
    write_json(folder / "complete.json", record | {"examples": total.first})


def planned_items(items: Iterable[Item], part_size: int) -> str:
    """Digest of the items that a store would have, without embedding any."""
    return join_digests(items_digest(chunk) for chunk in chunks(items, part_size))


def join_digests(digests: Iterable[str]) -> str:
    """One digest of several."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def items_digest(items: list[Item]) -> str:
    """Hash of items with the sizes of their files: sees replaced images without reading them."""
    digest = hashlib.sha256()
    for item in items:
        try:
            size = item.path.stat().st_size
        except OSError:
            size = -1
        record = [item.owner, item.data, item.path.name, size, item.text]
        digest.update(json.dumps(record).encode() + b"\n")
    return digest.hexdigest()


def _is_written(folder: Path, part: int, digest: str) -> bool:
    path = part_path(folder, part, "json")
    if not path.is_file():
        return False
    return read_json(path, "embed again").get("items") == digest


def _write_rows(
    db: sqlite3.Connection, folder: Path, n_parts: int, entities: Iterable[str]
) -> dict[str, int]:
    db.execute("PRAGMA journal_mode = OFF")  # a half-built table is thrown away anyway
    db.execute("CREATE TABLE rows (row INTEGER PRIMARY KEY, owner TEXT, data TEXT)")
    db.execute("CREATE TABLE entities (position INTEGER PRIMARY KEY, id TEXT UNIQUE)")
    for position, entity in enumerate(entities):
        try:
            db.execute("INSERT INTO entities VALUES (?, ?)", (position, entity))
        except sqlite3.IntegrityError:
            raise UserError(
                f"{entity!r} occurs twice in the knowledge base, the second time as entry "
                f"{position}; keep one."
            ) from None
    db.executemany("INSERT INTO rows VALUES (?, ?, ?)", _numbered_rows(folder, n_parts))
    db.execute("CREATE INDEX owners ON rows (owner)")
    n_entities = db.execute("SELECT count(*) FROM entities").fetchone()[0]
    n_owners = db.execute("SELECT count(DISTINCT owner) FROM rows").fetchone()[0]
    return {"entities": n_entities, "owners": n_owners}


def _numbered_rows(folder: Path, n_parts: int) -> Iterator[tuple[int, str, str]]:
    row = 0
    for part in range(n_parts):
        with part_path(folder, part, "jsonl").open(encoding="utf-8") as file:
            for line in file:
                owner, data = json.loads(line)
                yield row, owner, data
                row += 1
