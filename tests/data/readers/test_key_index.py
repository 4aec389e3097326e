"""A table of a file's keys: beside it, or in the user's cache where nothing can be written."""

import errno
import os
from pathlib import Path

import pytest

from regionr1.data.readers.key_index import KeyIndex, index_path
from regionr1.errors import UserError
from regionr1.files import whole_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.csv").write_text("a,1\nb,2\n")
    return tmp_path / "data" / "table.csv"


def indexed(source: Path) -> KeyIndex:
    def rows():
        return (tuple(line.split(",")) for line in source.read_text().splitlines())

    return KeyIndex(source, "the table", rows, in_memory_below=0)


def test_in_a_folder_that_is_read_only_the_index_goes_to_the_cache(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert indexed(source).get("b") == "2"
    assert [path.name for path in source.parent.iterdir()] == ["table.csv"]
    assert index_path(source).parent == tmp_path / "cache" / "regionr1"
    made = index_path(source).stat().st_mtime_ns
    assert indexed(source).get("a") == "1" and index_path(source).stat().st_mtime_ns == made


def test_a_damaged_index_is_named(source: Path) -> None:
    table = indexed(source)
    path = index_path(source)
    assert path.parent == source.parent
    path.write_bytes(path.read_bytes()[:4096] + b"\x07" * 40_000)
    with pytest.raises(UserError, match=r"regionr1-index: damaged .*remove it, it is made anew"):
        table.get("a")


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.EROFS, "name another folder"),
        (errno.EACCES, "give yourself the right"),
        (errno.ENOSPC, "the caller's own"),
        (errno.EIO, "the caller's own"),
    ],
)
def test_the_mend_is_that_of_the_error(tmp_path: Path, number: int, mend: str) -> None:
    with (
        pytest.raises(UserError, match=mend),
        whole_file(tmp_path / "x", mend="the caller's own"),
    ):
        raise OSError(number, "no")
