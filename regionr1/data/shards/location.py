"""Where shards lie: a local folder, a URL that WebDataset opens, or a command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import webdataset as wds
from webdataset.gopen import gopen_schemes

from regionr1.data.shards.s3 import open_s3
from regionr1.errors import UserError

SCHEMES = ("http", "https", "s3", "gs", "file", "pipe")
gopen_schemes.setdefault("s3", open_s3)  # unless USE_AIS_FOR has them read through AIStore
# webdataset hands URLs to curl and its kin through a shell.
_SAFE_URL = re.compile(r"[A-Za-z0-9+.-]+://[A-Za-z0-9@:%._~/+=,-]*")


@dataclass(frozen=True, slots=True)
class Remote:
    """Shards behind a URL, or behind a command that writes one of them to its output.

    Attributes:
        url: Base URL, or ``pipe:`` and a command in which ``{name}`` stands for the file.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def of(self, name: str) -> str:
        """Return the URL of one file of the folder."""
        if self.url.startswith("pipe:"):
            return self.url.replace("{name}", name)
        return f"{self.url.rstrip('/')}/{name}"


Location = Path | Remote


def as_location(text: str | Path) -> Location:
    """Read a location as a user writes it.

    Raises:
        UserError: An unknown scheme, a URL that a shell could misread, a command without {name}.
    """
    if isinstance(text, Path) or not (match := re.match(r"([a-z0-9]+):", text)):
        return Path(text)
    if match[1] not in SCHEMES:
        raise UserError(f"{text}: unknown scheme {match[1]!r}; use one of {', '.join(SCHEMES)}.")
    if match[1] == "pipe":
        if "{name}" not in text:
            raise UserError(
                f"{text}: a pipe needs {{name}} where the file's name goes, as in "
                "'pipe:ssh host cat shards/{name}'."
            )
    elif not _SAFE_URL.fullmatch(text):
        raise UserError(f"{text}: a URL may hold letters, digits and @:%._~/+=,- only; encode it.")
    return Remote(text)


def read_bytes(location: Location, name: str) -> bytes:
    """Read a whole small file.

    Raises:
        FileNotFoundError: A local file is missing.
        UserError: A remote one cannot be read.
    """
    if isinstance(location, Path):
        return (location / name).read_bytes()
    try:
        with wds.gopen(location.of(name)) as file:
            data = file.read()
    except OSError as error:
        reason = error.args[0] if error.args else error
        raise UserError(f"{location.of(name)}: cannot be read ({reason}).") from error
    if not data:
        raise UserError(f"{location.of(name)}: came back empty; check the location.")
    return data


@contextmanager
def open_shard(location: Location, name: str) -> Iterator[BinaryIO]:
    """Open a shard for reading from its start.

    Raises:
        OSError: It cannot be opened; while it is read, or at its end, a command may fail too.
    """
    if isinstance(location, Path):
        with (location / name).open("rb") as file:
            yield file
        return
    stream = wds.gopen(location.of(name))
    try:
        yield stream
    finally:
        with suppress(OSError):  # a command whose output is not read to its end may say so
            stream.close()


def url_of(location: Location, name: str) -> str:
    """What WebDataset opens for one file."""
    if isinstance(location, Path):
        return str((location / name).resolve())
    return location.of(name)
