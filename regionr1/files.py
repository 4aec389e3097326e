"""Files that are whole or not there: the one place that writes them."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regionr1.errors import UserError

_EDGE = 1 << 20


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    write_whole(path, lambda file: file.write(json.dumps(value, ensure_ascii=False).encode()))


def write_whole(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file under a temporary name and rename it when it is whole.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the bytes do
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); make room, then run the same "
            "command again: what is whole is kept."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """Read a JSON object that one of these commands wrote.

    Args:
        path: The file.
        mend: What to do when it is missing.

    Raises:
        UserError: Missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {mend}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); remove it and {mend}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: damaged (no JSON object); remove it and {mend}.")
    return value


def file_identity(path: Path) -> list[Any]:
    """Name, size and hash of a file; of a large one, the hash of both ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_EDGE))
        if size <= 64 * _EDGE:
            while block := file.read(_EDGE):
                digest.update(block)
        else:
            file.seek(size - _EDGE)
            digest.update(file.read(_EDGE))
    return [path.name, size, digest.hexdigest()]


def file_sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
