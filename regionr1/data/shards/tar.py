"""Reading plain tars of bounded members, one header at a time, from a file or a pipe.

Shards come from elsewhere too. An archive that is compressed, sparse or holds links could fill the
memory or point outside; nothing of the kind is ever in a shard, so it is refused at its header.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

_BLOCK = tarfile.BLOCKSIZE
_LONGEST_PAX = 1 << 16
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


def read_samples_of_tar(file: BinaryIO, limits: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the samples of a shard: consecutive members of one key, their bytes by extension.

    Args:
        file: Where the archive is read from, in order and never back.
        limits: Most bytes of a member, by its extension; a member of another one is refused.

    Raises:
        tarfile.TarError: It is no such archive, or is cut short within a member.
        OSError: It cannot be read.
    """
    sample: dict[str, Any] = {}
    for name, size in _members(file):
        key, _, extension = name.partition(".")
        if not key or "/" in name or extension not in limits:
            raise tarfile.ReadError(f"member {name!r} is no part of a sample")
        if size > limits[extension]:
            raise tarfile.ReadError(f"member {name!r} has {size:,} bytes")
        if sample and sample["__key__"] != key:
            yield sample
            sample = {}
        if extension in sample:
            raise tarfile.ReadError(f"member {name!r} occurs twice")
        sample |= {"__key__": key, extension: _exactly(file, size)}
        _exactly(file, -size % _BLOCK)
    if sample:
        yield sample


def _members(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Name and size of every regular file; the caller reads its content before the next."""
    long_name = None
    while (block := file.read(_BLOCK)).strip(b"\0"):
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no plain tar, perhaps a compressed one: {error}") from error
        if header.type == tarfile.XHDTYPE and 0 <= header.size <= _LONGEST_PAX:
            long_name = _pax_path(_exactly(file, header.size))
            _exactly(file, -header.size % _BLOCK)
            continue
        if header.type not in _PLAIN or header.size < 0:
            raise tarfile.ReadError(f"member {header.name!r} is no plain file")
        yield long_name or header.name, header.size
        long_name = None


def _pax_path(records: bytes) -> str | None:
    """The name that is too long for a header, from the lines `LENGTH KEY=VALUE` before it."""
    path = None
    while records:
        digits = records.partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = records[len(digits) + 1 : length].partition(b"=")
        if not equals or length > len(records):
            raise tarfile.ReadError("a damaged extended header")
        if key == b"size" or key.startswith(b"GNU.sparse"):
            raise tarfile.ReadError(f"a sparse member ({key.decode()})")
        if key == b"path":
            path = value.rstrip(b"\n").decode("utf-8", "surrogateescape")
        records = records[length:]
    return path


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size) if size else b""
    while len(data) < size and (more := file.read(size - len(data))):  # a pipe may give less
        data += more
    if len(data) < size:
        raise tarfile.ReadError("unexpected end of data")
    return data
