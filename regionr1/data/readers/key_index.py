"""A key to value table on disk, built once beside the file it was read from.

Tables of the published files have millions of rows (2 million pages, 5 million images), which as
Python dictionaries would take gigabytes in every process.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from regionr1.errors import MachineError, UserError
from regionr1.files import refused, whole_file

SUFFIX = ".regionr1-index"
IN_MEMORY_BELOW = 64 << 20
"""Files below this many bytes are indexed in memory, anew in every process."""

_VERSION = 1


class KeyIndex:
    """Keys of one file in file order, each with a text value.

    Args:
        source: The file that is indexed. The index lies beside it, as `<name>.regionr1-index`, or
            in the user's cache where nothing can be written beside it.
        what: What the file is, for the error messages.
        read: Yields its keys and values.
        in_memory_below: Smaller files are indexed in memory.

    Raises:
        UserError: The file is missing, a key occurs twice, or the index cannot be written.
    """

    def __init__(
        self,
        source: Path,
        what: str,
        read: Callable[[], Iterable[tuple[str, str]]],
        in_memory_below: int = IN_MEMORY_BELOW,
    ) -> None:
        self.source = source
        self.what = what
        try:
            stat = source.stat()
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise UserError(f"{source}: {what} is missing; put it there.") from None
            raise refused(f"{source}: {what}", error) from error
        stamp = f"{_VERSION} {stat.st_size} {stat.st_mtime_ns}"
        if stat.st_size < in_memory_below:
            self._db = _connect(None)
            self._fill(read(), stamp)
            return
        path = index_path(source)
        if not _is_current(path, stamp):
            self._build(path, read, stamp)
        self._db = _connect(path, "ro")

    def __len__(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(position) + 1, 0) FROM t").fetchone()[0])

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def get(self, key: str) -> str | None:
        """The value of a key, compared as an exact string; None where there is none."""
        try:
            found = self._db.execute("SELECT value FROM t WHERE key = ?", (key,)).fetchone()
        except sqlite3.OperationalError as error:  # among others, too many open files
            raise MachineError(f"{self.source}: its index cannot be read ({error}).") from error
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{index_path(self.source)}: damaged ({error}); remove it, it is made anew."
            ) from error
        return None if found is None else found[0]

    def keys(self) -> Iterator[str]:
        """Every key in file order."""
        for (key,) in self._db.execute("SELECT key FROM t ORDER BY position"):
            yield key

    def _build(self, path: Path, read: Callable[[], Iterable[tuple[str, str]]], stamp: str) -> None:
        mend = f"it is the index of {self.what}: make room, or the folder writable"
        with whole_file(path, sqlite3.OperationalError, mend=mend) as partial:
            self._db = _connect(partial, "rwc")
            self._fill(read(), stamp)
            self._db.close()

    def _fill(self, entries: Iterable[tuple[str, str]], stamp: str) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = OFF")  # a half-built index is thrown away anyway
        db.execute("CREATE TABLE t (position INTEGER PRIMARY KEY, key TEXT UNIQUE, value TEXT)")
        db.execute("CREATE TABLE stamp (text TEXT)")
        rows = ((n, key, value) for n, (key, value) in enumerate(entries))
        for row in rows:
            try:
                db.execute("INSERT INTO t VALUES (?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise UserError(
                    f"{self.source}: {row[1]!r} occurs twice in {self.what}, the second time as "
                    f"entry {row[0]}; keep one."
                ) from None
        db.execute("INSERT INTO stamp VALUES (?)", (stamp,))
        db.commit()


def index_path(source: Path) -> Path:
    """Where the index of a file lies that is too large to be indexed in memory."""
    name = source.name + SUFFIX
    if os.access(source.parent, os.W_OK):
        return source.with_name(name)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    digest = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:12]
    return cache / "regionr1" / f"{digest}-{name}"


def _connect(path: Path | None, mode: str = "rwc") -> sqlite3.Connection:
    # Reading threads share it; sqlite itself serialises them.
    if path is None:
        return sqlite3.connect(":memory:", check_same_thread=False)
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)


def _is_current(path: Path, stamp: str) -> bool:
    if not path.is_file():
        return False
    try:
        db = _connect(path, "ro")
        found = db.execute("SELECT text FROM stamp").fetchone()
        db.close()
    except sqlite3.DatabaseError:
        return False
    return found is not None and found[0] == stamp
