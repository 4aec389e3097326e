"""A JSON object of any size, read entry by entry: E-VQA's knowledge base has 16 GB of text."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regionr1.data.readers.key_index import IN_MEMORY_BELOW, KeyIndex
from regionr1.errors import UserError

CHUNK = 4 << 20
MAX_ENTRY = 64 << 20
"""Most characters of one entry: without a bound, one lost quote would read the whole file."""

_SPACE = re.compile(r"[ \t\r\n]*")
_ENDS = tuple(" \t\r\n,:}")  # what may stand after a key or an entry


class JsonObject:
    """A JSON file whose top level is an object, with its entries in file order.

    Streaming holds one entry at a time; looking one up reads only its bytes, through an index of
    where each entry lies.

    Args:
        path: The file.
        what: What the file is, for the error messages.
        in_memory_below: Size in bytes from which the index is kept beside the file.
    """

    def __init__(self, path: Path, what: str, in_memory_below: int = IN_MEMORY_BELOW) -> None:
        self.path = path
        self.what = what
        self._in_memory_below = in_memory_below
        self._index: KeyIndex | None = None

    @property
    def index(self) -> KeyIndex:
        """Where each entry lies, built at first use.

        Raises:
            UserError: The file is missing or broken, or a key occurs twice.
        """
        if self._index is None:
            self._index = KeyIndex(self.path, self.what, self._spans, self._in_memory_below)
        return self._index

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, key: object) -> bool:
        return key in self.index

    def get(self, key: str) -> Any:
        """The entry of a key, compared as an exact string; None where there is none."""
        span = self.index.get(key)
        if span is None:
            return None
        start, length = map(int, span.split())
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return json.loads(file.read(length))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: entry {key!r} cannot be read ({error}).") from error

    def items(self) -> Iterator[tuple[str, Any]]:
        """Every key and entry in file order, without the index.

        Raises:
            UserError: Missing, not UTF-8, truncated, or no JSON object.
        """
        for key, value, _, _ in scan_object(self.path, self.what):
            yield key, value

    def _spans(self) -> Iterator[tuple[str, str]]:
        for key, _, start, length in scan_object(self.path, self.what):
            yield key, f"{start} {length}"


def scan_object(path: Path, what: str) -> Iterator[tuple[str, Any, int, int]]:
    """Yield ``(key, value, first byte, number of bytes)`` of every entry of a JSON object.

    ijson and its kin stream too, but do not say where an entry lies, and are slower than the
    standard library's parser on one entry at a time.

    Raises:
        UserError: Missing, not UTF-8, truncated, or no JSON object.
    """
    try:
        with path.open("rb") as file:
            yield from _Scanner(file, path, what).entries()
    except FileNotFoundError:
        raise UserError(f"{path}: {what} is missing; put it there.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {what} is not UTF-8 ({error.reason}); fetch it again.") from error
    except OSError as error:
        raise UserError(f"{path}: {what} cannot be read ({error.strerror or error}).") from error


class _Scanner:
    """A window over the text, moved forward entry by entry."""

    def __init__(self, file: Any, path: Path, what: str) -> None:
        self.file, self.path, self.what = file, path, what
        self.decode = codecs.getincrementaldecoder("utf-8")().decode
        self.parse = json.JSONDecoder().raw_decode
        self.text = ""
        self.at = 0  # in characters of the window
        self.byte = 0  # of the file, where `at` is
        self.ended = False

    def entries(self) -> Iterator[tuple[str, Any, int, int]]:
        if self._next() == "\ufeff":
            self._move(self.at + 1)
        if self._next() != "{":
            raise UserError(f"{self.path}: {self.what} must be a JSON object {{...}}.")
        self._move(self.at + 1)
        if self._next() != "}":
            while True:
                yield self._entry()
                if self._next() != ",":
                    break
                self._move(self.at + 1)
        if self._next() != "}":
            raise self._broken("expected ',' or '}'")
        self._move(self.at + 1)
        if self._next():
            raise self._broken("more text after the object")

    def _entry(self) -> tuple[str, Any, int, int]:
        if self._next() != '"':
            raise self._broken("expected a key in quotes")
        key = self._value()
        if self._next() != ":":
            raise self._broken("expected ':'")
        self._move(self.at + 1)
        self._next()
        start = self.byte
        value = self._value()
        return key, value, start, self.byte - start

    def _next(self) -> str:
        """The next character that is no space, which is where the window then stands."""
        while True:
            match = _SPACE.match(self.text, self.at)
            self._move(match.end() if match else self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._read()

    def _value(self) -> Any:
        while True:
            try:
                value, end = self.parse(self.text, self.at)
                # What ends at the window's end may go on beyond it: 0 may become 0.5.
                if self.text[end : end + 1] in _ENDS or self.ended or self._is_full():
                    self._move(end)
                    return value
            except json.JSONDecodeError as error:
                if self.ended or self._is_full():
                    raise self._broken(error.msg) from error
            except RecursionError as error:
                raise self._broken("nested too deeply") from error
            self._read()

    def _is_full(self) -> bool:
        return len(self.text) - self.at > MAX_ENTRY

    def _read(self) -> None:
        data = self.file.read(CHUNK)
        self.ended = not data
        self.text = self.text[self.at :] + self.decode(data, final=self.ended)
        self.at = 0

    def _move(self, to: int) -> None:
        self.byte += len(self.text[self.at : to].encode())
        self.at = to

    def _broken(self, reason: str) -> UserError:
        return UserError(
            f"{self.path}: {self.what} is not valid JSON near byte {self.byte:,} ({reason}), "
            "perhaps a truncated download; fetch it again."
        )
