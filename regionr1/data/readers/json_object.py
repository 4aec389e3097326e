"""A JSON object of any size, read entry by entry: E-VQA's knowledge base has 16 GB of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from regionr1.errors import UserError
from regionr1.files import refused

BUFFER = 1 << 16
MAX_ENTRY = 64 << 20
"""Most bytes of one entry: without a bound, one lost quote would read the whole file."""

_BOM = b"\xef\xbb\xbf"


def scan_object(path: Path, what: str) -> Iterator[tuple[str, Any]]:
    """Yield key and entry of a JSON object in file order, holding one entry at a time.

    Numbers are read as C reads them: an integer of more than 64 bits is refused.

    Args:
        path: A UTF-8 file, with or without a byte-order mark.
        what: What the file is, for the error messages.

    Raises:
        UserError: Missing, not UTF-8, truncated, no JSON object, or an entry of unlikely size.
    """
    try:
        with path.open("rb") as file:
            window = _Window(file)
            if window.start() != b"{":
                raise UserError(f"{path}: {what} must be a JSON object {{...}}.")
            try:
                for key, value in ijson.kvitems(window, "", use_float=True, buf_size=BUFFER):
                    yield key, value
                    window.since_entry = 0
            except (ijson.JSONError, _EntryTooLarge) as error:
                raise UserError(
                    f"{path}: {what} is not valid JSON within its first {window.n_read:,} bytes "
                    f"({json_reason(error)}), perhaps a truncated download; fetch it again."
                ) from error
    except FileNotFoundError:
        raise UserError(f"{path}: {what} is missing; put it there.") from None
    except OSError as error:
        raise refused(f"{path}: {what}", error) from error


def json_reason(error: Exception) -> str:
    """What is wrong, from ijson's error, which draws the place of it on lines of its own."""
    text = str(error).removeprefix("b'").replace("\\n", "\n")
    reason = text.splitlines()[0].strip() if text else type(error).__name__
    return reason.replace("invalid bytes in UTF8 string.", "not UTF-8")


class _EntryTooLarge(Exception):
    """More was read for one entry than any entry has."""


class _Window:
    """A file that counts what is read of it, and refuses to read on and on for one entry."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.n_read = 0
        self.since_entry = 0

    def start(self) -> bytes:
        """Pass over byte-order mark and space; the first byte after them, which is not read yet."""
        head = self.file.read(len(_BOM))
        if head != _BOM:
            self.file.seek(0)
        while (byte := self.file.read(1)) and byte in b" \t\r\n":
            pass
        self.file.seek(-len(byte), 1)
        return byte

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, as ijson asks of a file."""
        if self.since_entry > MAX_ENTRY:
            raise _EntryTooLarge(f"an entry of more than {MAX_ENTRY:,} bytes")
        data = self.file.read(size)
        self.n_read += len(data)
        self.since_entry += len(data)
        return data
