"""Checkpoint files: whole, and known to be as they were written."""

import os
import random
from pathlib import Path

import pytest
import torch

from regionr1.errors import UserError
from regionr1.training.checkpoint import WholeCheckpoints, read_checkpoint

STATE = {
    "state_dict": {"weight": torch.arange(300.0)},
    "optimizer_states": [{"step": torch.tensor(3)}],
    "global_step": 3,
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "step-000003.ckpt"
    WholeCheckpoints().save_checkpoint(STATE, path)
    return path


def test_torch_and_we_read_what_was_written(written: Path) -> None:
    for read in (read_checkpoint(written), torch.load(written, weights_only=True)):
        assert torch.equal(read["state_dict"]["weight"], torch.arange(300.0))
    assert list(written.parent.iterdir()) == [written]


def test_every_flipped_bit_is_noticed(written: Path) -> None:
    whole, chance = written.read_bytes(), random.Random(0)
    places = [chance.randrange(8 * len(whole)) for _ in range(150)]
    places += range(8 * (len(whole) - 100), 8 * len(whole), 3)  # where the digest is
    for place in places:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        written.write_bytes(flipped)
        with pytest.raises(UserError, match="damaged or no checkpoint|altered after it was"):
            read_checkpoint(written)


def test_every_cut_is_noticed(written: Path) -> None:
    whole = written.read_bytes()
    for length in range(0, len(whole), 97):
        written.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged or no checkpoint"):
            read_checkpoint(written)


def test_a_checkpoint_of_plain_torch_is_read_if_its_own_checksums_hold(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save(STATE, path)
    assert read_checkpoint(path)["global_step"] == 3
    content = bytearray(path.read_bytes())
    middle = content.index(torch.arange(300.0).numpy().tobytes())
    content[middle + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="other.ckpt: it was altered"):
        read_checkpoint(path)


def test_nothing_goes_through_the_temporary_folder(written: Path, monkeypatch) -> None:
    """It may be another filesystem: from there a file cannot be renamed, only copied."""
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr("tempfile.tempdir", None)
    WholeCheckpoints().save_checkpoint({**STATE, "global_step": 4}, written)
    assert read_checkpoint(written)["global_step"] == 4


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written .*make room, then begin again"):
        WholeCheckpoints().save_checkpoint(STATE, os.path.join(tmp_path, "file", "x.ckpt"))
