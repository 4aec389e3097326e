"""Reading CSV and JSON Lines files row by row, with errors that name file and line."""

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from regionr1.data.images import upright_size
from regionr1.data.records import Box, box_fault
from regionr1.errors import UserError
from regionr1.files import parse_json, refused

_SHOWN = 80
_LONGEST_NAME = 255
MAX_FIELD = 1 << 24
"""Longest CSV field; the csv module's own 128 KB is below E-VQA's longest evidence."""


def csv_rows(
    path: Path, required: Sequence[str], what: str
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield ``(line number, row by column name)`` of a CSV file with a header.

    Args:
        path: A UTF-8 file, with or without a byte-order mark.
        required: Columns that the header must have, in any order and among others.
        what: What the file is, for the error messages.

    Raises:
        UserError: Missing, not UTF-8, no CSV, a column or a field too few.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                header = next(reader, [])
                absent = [name for name in required if name not in header]
                if absent:
                    raise UserError(
                        f"{path}:1: the header has no column {absent[0]!r}; {what} need it."
                    )
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
        raise UserError(f"{path}: {what} are missing; add the file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; fetch it again.") from error
    except OSError as error:
        raise refused(path, error) from error


def json_lines(
    path: Path, required: Sequence[str], what: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, record)`` of a JSON Lines file; ``.gz`` is unpacked while reading.

    Args:
        path: A UTF-8 file of one JSON object per line; empty lines are passed over.
        required: Keys that every record must have.
        what: What the file is, for the error messages.

    Raises:
        UserError: Missing, cut short, not UTF-8, no JSON, or a record without a required key.
    """
    try:
        with _open_binary(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _record(line, required, f"{path}:{number}")
    except FileNotFoundError:
        raise UserError(f"{path}: {what} are missing; add the file.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: truncated or damaged gzip ({error}); fetch it again.") from error
    except OSError as error:
        raise refused(path, error) from error


def shown(value: object) -> str:
    """A value as an error message shows it: the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def text_of(record: Mapping[str, Any], name: str, where: str) -> str:
    """The text field ``name`` of a record, stripped; anything else there raises."""
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {name!r} must be a text that is not empty, got {shown(value)}.")
    return value.strip()


def _open_binary(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


def _record(line: bytes, required: Sequence[str], where: str) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 at byte {error.start} of the line; fetch it again."
        ) from error
    except ValueError as error:
        raise UserError(
            f"{where}: not valid JSON ({error}), perhaps a truncated download; fetch it again."
        ) from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object, got a {type(record).__name__}.")
    absent = [name for name in required if name not in record]
    if absent:
        raise UserError(f"{where}: the record has no key {absent[0]!r}.")
    return record


def read_box(numbers: object, where: str, image: Path | None = None) -> Box:
    """The xyxy box that a file names, in pixels of its upright image.

    Args:
        numbers: What stands there.
        where: File and line.
        image: The image's file, if it is known already; where it cannot be opened, whoever decodes
            it says so.

    Raises:
        UserError: It is no such box, as one of another frame (0..1, xywh) is not.
    """
    size = None if image is None else upright_size(image)
    # Without an image, any box with an area may be right.
    fault = box_fault(numbers, *(size or (math.inf, math.inf)))
    if fault:
        raise UserError(f"{where}: {fault}; convert it from the frame that it is in.")
    x1, y1, x2, y2 = (float(value) for value in cast(list[float], numbers))
    if size is None:
        return x1, y1, x2, y2
    width, height = size
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def first_existing(root: Path, names: tuple[str, ...]) -> Path:
    """The first of several file names that exists, else the first of all."""
    return next((root / name for name in names if (root / name).is_file()), root / names[0])


def resolve_inside(root: Path, relative: object, where: str) -> Path:
    """Join a path that a data file names, and refuse one that leaves ``root``."""
    if not isinstance(relative, str) or not relative:
        raise UserError(f"{where}: expected a relative file path, got {shown(relative)}.")
    parts = PurePosixPath(relative)
    if parts.is_absolute() and parts.is_relative_to(PurePosixPath(root.resolve().as_posix())):
        parts = parts.relative_to(PurePosixPath(root.resolve().as_posix()))
    if "\0" in relative or any(len(part.encode()) > _LONGEST_NAME for part in parts.parts):
        raise UserError(f"{where}: no file can have the path {shown(relative)}.")
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(
            f"{where}: path {shown(relative)} leaves the data folder; make it relative."
        )
    return root / parts
