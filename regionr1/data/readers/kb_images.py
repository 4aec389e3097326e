"""Where the pictures of a knowledge base lie on disk: tables from image URL to file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from regionr1.data.readers.json_object import scan_object
from regionr1.data.readers.key_index import KeyIndex
from regionr1.data.readers.tables import resolve_inside
from regionr1.errors import UserError
from regionr1.files import refused

MAPPING = "url_to_path_mapping.json"
OMGM_TABLES = "wiki_image_url_part_*_processed.csv"
_WHAT = "the mapping of KB image URLs to files"


class KbImages:
    """Files of KB image URLs.

    Read from ``url_to_path_mapping.json`` (image URL to path relative to ``root``) or, where there
    is none, from OMGM's tables ``wiki_image_url_part_1_processed.csv`` and so on, whose columns
    are known by position: title, image URL, path, caption.

    Args:
        root: Folder with the tables; paths in them are relative to it.

    Raises:
        UserError: Neither is there, one is broken, or a path leaves the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        tables = [] if (root / MAPPING).is_file() else sorted(root.glob(OMGM_TABLES))
        self.sources = tables or [root / MAPPING]
        self._tables: list[KeyIndex] | None = None

    def find(self, url: str) -> Path | None:
        """The image file of a URL, or None when no table names one or it does not exist."""
        if self._tables is None:
            self._tables = [
                KeyIndex(path, _WHAT, partial(self._entries, path)) for path in self.sources
            ]
        for table in self._tables:
            relative = table.get(url)
            if relative is not None and (path := self.root / relative).is_file():
                return path
        return None

    def _entries(self, table: Path) -> Iterator[tuple[str, str]]:
        if table.suffix == ".csv":
            named: Iterator[tuple[str, object]] = _omgm_rows(table)
        else:
            named = scan_object(table, _WHAT)
        for url, value in named:
            path = resolve_inside(self.root, value, f"{table}, image URL {url!r}")
            yield url, path.relative_to(self.root).as_posix()


def _omgm_rows(path: Path) -> Iterator[tuple[str, object]]:
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            next(rows, None)
            for fields in rows:
                if len(fields) < 3:
                    raise UserError(
                        f"{path}:{rows.line_num}: {len(fields)} fields; expected title, image "
                        "URL, path and caption."
                    )
                if fields[1] not in seen:  # one image may stand under several titles
                    seen.add(fields[1])
                    yield fields[1], fields[2]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: malformed CSV ({error}); fetch it again.") from error
    except OSError as error:
        raise refused(path, error) from error
