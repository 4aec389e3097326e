"""Files are whole or not there, whoever writes them and however it ends."""

import errno
import os
from pathlib import Path

import pytest

from regionr1.errors import UserError
from regionr1.files import as_umask_allows, whole_file, write_json, write_text, write_whole


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_name_appears_when_the_bytes_are_on_the_disk(tmp_path: Path, monkeypatch) -> None:
    synced: list[list[str]] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda n: (synced.append(names(tmp_path / "new")), real(n)))
    path = tmp_path / "new" / "table.json"
    write_json(path, {"ä": 1})
    assert path.read_text(encoding="utf-8") == '{"ä": 1}' and names(path.parent) == ["table.json"]
    assert len(synced) == 1 and path.name not in synced[0]


def test_what_stood_there_stays_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    write_text(path, "before")

    def write(file) -> None:
        file.write(b"half")
        raise KeyError("the writer's own")

    with pytest.raises(KeyError):
        write_whole(path, write)
    assert path.read_text() == "before" and names(tmp_path) == ["p.txt"]


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "p.txt"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"p\.txt: cannot be written \(No space left .*; sell it\."):
        write_text(path, "x", mend="sell it")
    assert names(tmp_path) == []


def test_a_library_that_cannot_write_says_so_in_its_own_way(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with pytest.raises(UserError, match=r"index: cannot be written \(disk I/O\); make room"):
        with whole_file(path, RuntimeError) as partial:
            partial.write_text("half")
            raise RuntimeError("disk I/O")
    with pytest.raises(RuntimeError), whole_file(path):
        raise RuntimeError("not about files")
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"p\.txt: cannot be written \(.*\)"):
        write_text(tmp_path / "file" / "p.txt", "x")


def test_files_of_private_writers_are_as_the_umask_allows(tmp_path: Path) -> None:
    """safetensors writes files that only their owner may read."""
    import torch
    from safetensors.torch import save_file

    made = tmp_path / "made"
    made.write_text("by a plain writer")
    with whole_file(tmp_path / "whole.safetensors") as partial:
        save_file({"a": torch.zeros(1)}, partial)
    save_file({"a": torch.zeros(1)}, tmp_path / "direct.safetensors")
    as_umask_allows(tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
