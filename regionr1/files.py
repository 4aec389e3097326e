"""Files that are whole or not there: the one place that writes them."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from regionr1.errors import MachineError, UserError

_EDGE = 1 << 20
_UMASK = os.umask(0o077)  # can only be read by setting it, which is for when no thread runs yet
os.umask(_UMASK)
_LOCK = ".regionr1-lock"


MEND = "make room, then run the same command again: what is whole is kept"


_MENDS = {
    errno.EMFILE: "raise the limit, as with `ulimit -n 4096`, and run the same command again",
    errno.ENFILE: "end what else has files open on this machine, and run the same command again",
    errno.EACCES: "give yourself the right to it",
    errno.EPERM: "give yourself the right to it",
    errno.EROFS: "copy it to where you may write, or name another folder",
    errno.ENOSPC: MEND,
    errno.EDQUOT: MEND,
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def refused(path: object, error: OSError, what: str = "cannot be read") -> MachineError:
    """What to raise where the machine let a file be neither read nor written.

    Args:
        path: The file.
        error: What the machine said.
        what: What could not be done.
    """
    mend = _MENDS.get(error.errno or 0, "see to the disk, then run the same command again")
    return MachineError(f"{path}: {what} ({error.strerror or error}); {mend}.")


@contextmanager
def whole_file(path: Path, *also: type[Exception], mend: str = MEND) -> Iterator[Path]:
    """Give the block a temporary name to write to, and rename the file when the block has ended.

    The bytes are on the disk before the name is, and the folder is made where it is missing. When
    the block raises, whatever stood under the name before stays.

    Args:
        path: The file.
        also: What the writer in the block raises, beside OSError, when it cannot write.
        mend: What to do when the file cannot be written.

    Yields:
        The temporary name, in the same folder.

    Raises:
        MachineError: The disk is full or the folder cannot be written.
    """
    # A name that no other process, thread or machine uses: several may write the same file.
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    errors: tuple[type[Exception], ...] = (OSError, *also)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            replace_whole(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except errors as error:
        number, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or error
        mend = mend if number in _NO_ROOM else _MENDS.get(number or 0, mend)
        raise MachineError(f"{path}: cannot be written ({reason}); {mend}.") from error


@contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Let no other process do the same in a folder meanwhile, which is made where it is missing.

    The machine takes the lock from a process that dies.

    Args:
        folder: The folder.
        doing: What a process does here, for the error message.

    Raises:
        UserError: Another process does.
        MachineError: The folder cannot be written.
    """
    # One lock for each folder in a process, which may take it again within.
    lock = FileLock(folder / _LOCK, timeout=0, is_singleton=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder}: another process {doing}; wait for it.") from None
    except OSError as error:
        raise refused(folder, error, "cannot be written") from error
    try:
        yield
    finally:
        with suppress(OSError):
            if lock.lock_counter == 1 and os.listdir(folder) == [_LOCK]:  # nothing was done here
                (folder / _LOCK).unlink()
                folder.rmdir()
        lock.release()


def remove_half_written(folder: Path) -> None:
    """Remove what killed processes left half written in a folder that no other process writes."""
    for path in folder.rglob(".*.partial-*"):
        path.unlink(missing_ok=True)


def as_umask_allows(path: Path) -> None:
    """Let those read a file, or every file of a folder, whom the user's umask lets.

    Libraries that write safetensors files make them private.
    """
    for file in path.iterdir() if path.is_dir() else (path,):
        if file.is_file():
            file.chmod(0o666 & ~_UMASK)


def replace_whole(partial: Path, path: Path) -> None:
    """Give a file that was written under a temporary name its own, in the same folder.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    with partial.open("rb") as file:
        os.fsync(file.fileno())  # a rename may reach the disk before the bytes do
    as_umask_allows(partial)
    partial.replace(path)


def write_whole(path: Path, write: Callable[[BinaryIO], object], mend: str = MEND) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file.
        write: Writes the content to the file that it is given.
        mend: What to do when the file cannot be written.

    Raises:
        MachineError: The disk is full or the folder cannot be written.
    """
    with whole_file(path, mend=mend) as partial, partial.open("wb") as file:
        write(file)


def write_text(path: Path, text: str, mend: str = MEND) -> None:
    """Write a UTF-8 file whole or not at all.

    Raises:
        MachineError: The disk is full or the folder cannot be written.
    """
    write_whole(path, lambda file: file.write(text.encode()), mend)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        MachineError: The disk is full or the folder cannot be written.
    """
    write_text(path, json.dumps(value, ensure_ascii=False))


def parse_json(data: bytes) -> Any:
    """Parse JSON that came from anywhere.

    Raises:
        ValueError: No JSON, not UTF-8, nested too deeply, or with halves of characters.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if b"\\ud" in data or b"\\uD" in data:  # half of a pair alone can be written nowhere
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_json(path: Path, mend: str) -> dict[str, Any]:
    """Read a JSON object that one of these commands wrote.

    Args:
        path: The file.
        mend: What to do when it is missing.

    Raises:
        UserError: Missing or damaged; a MachineError where it cannot be read at all.
    """
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {mend}.") from None
    except OSError as error:
        raise refused(path, error) from error
    except ValueError as error:
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
