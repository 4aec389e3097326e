"""`data prepare` and `data add-scorer` are killed at random moments and go on to the same bytes.

The data and the system's temporary folder lie on two filesystems, as on a cluster.
"""

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from evqa_files import make_evqa

from regionr1.cli.main import main
from regionr1.data.shards.describe import verify

RUNS, KILLS = 4, 3
OTHER_FILESYSTEM = Path("/dev/shm")
SIZES = {"train": 60, "val": 20, "test": 60}


def command(args: list[str], log: Path) -> None:
    """What a child process does: one command, its exit code that of the command."""
    if OTHER_FILESYSTEM.is_dir():
        os.environ["TMPDIR"] = str(OTHER_FILESYSTEM)
    with log.open("a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os._exit(main(args))


def start(args: list[str], log: Path) -> multiprocessing.Process:
    """Starts one by a fork: importing everything again takes ten times as long as the work."""
    process = multiprocessing.get_context("fork").Process(target=command, args=(args, log))
    process.start()
    return process


def whole(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def killed_and_gone_on_with(
    plain: Path, folders: list[Path], args: Callable[[Path], list[str]], count: Counter[str]
) -> None:
    """Runs the command in `plain` undisturbed, and in the others with kills; all end the same."""
    begin = time.monotonic()
    process = start(args(plain), plain / "log")
    process.join()
    length = time.monotonic() - begin
    assert process.exitcode == 0, (plain / "log").read_text()
    expected, chance = whole(plain / "shards"), random.Random(20261125)
    for folder in folders:
        kept = 0
        for _ in range(KILLS):
            process = start(args(folder), folder / "log")
            process.join(chance.uniform(0.1, 0.95) * length)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                count["kills"] += 1
            assert process.exitcode in (0, -signal.SIGKILL), (folder / "log").read_text()
            parts = len(list(folder.rglob("part-*.json")))
            # When the shards are whole their parts are cleared away, which a kill may meet too.
            done = whole(folder / "shards") == expected
            assert parts >= kept or done, "a part that was whole is lost"
            kept = parts
        process = start(args(folder), folder / "log")
        process.join()
        assert process.exitcode == 0, (folder / "log").read_text()
        assert whole(folder / "shards") == expected, "the same bytes"
        verify(folder / "shards")
        left = [
            path for path in folder.rglob(".*") if "partial" in path.name or ".work" in path.name
        ]
        assert not left, left
        count["runs that ended with the same bytes"] += 1


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False], ids=["work folder", "no work folder"])
def test_kills_at_random_moments(tmp_path: Path, capsys, kept: bool) -> None:
    (tmp_path / "data").mkdir()
    files = make_evqa(tmp_path / "data", SIZES)
    for rows in files.rows.values():  # several questions about an image
        rows += [{**row, "question": "And who made it?"} for row in rows[::3]]
    root = files.write()
    plain, *folders = [tmp_path / f"run{number}" for number in range(RUNS + 1)]
    for folder in (plain, *folders):
        folder.mkdir()

    def prepare(folder: Path) -> list[str]:
        made = ["data", "prepare", "--root", root, "--out", folder / "shards", "--k", 4]
        made += ["--scorer", "pixels", "--part_size", 5, "--samples_per_shard", 4]
        return [*map(str, made), *(["--work", str(folder / "work")] if kept else [])]

    count = Counter[str]()
    killed_and_gone_on_with(plain, folders, prepare, count)
    (tmp_path / "other.yaml").write_text("class_path: evqa_files.ColourScorer\n")

    def add(folder: Path) -> list[str]:
        made = ["data", "add-scorer", "--shards", folder / "shards", "--root", root]
        made += ["--scorer", tmp_path / "other.yaml", "--part_size", 2, "--batch_size", 2]
        return [*map(str, made)]

    for folder in (plain, *folders):
        shutil.rmtree(folder / "work", ignore_errors=True)
    killed_and_gone_on_with(plain, folders, add, count)
    with capsys.disabled():
        print("\n" + ", ".join(f"{name}: {n}" for name, n in count.items()) + "; nothing lost")
    assert count["kills"] >= RUNS
