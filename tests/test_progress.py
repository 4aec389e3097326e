"""Progress in a log: a line a minute, and nothing of what is quick."""

import itertools

import pytest

from regionr1 import progress as module
from regionr1.progress import progress


def test_a_log_gets_a_line_a_minute(capsys, monkeypatch) -> None:
    clock = itertools.count(0, 25)
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    assert list(progress(range(12), "verify")) == list(range(12))
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 12 and all(line.startswith("verify: ") for line in lines)
    assert "/12 (" in lines[0] and " left" in lines[0]


@pytest.mark.parametrize("total", [None, 3])
def test_what_takes_less_than_a_minute_prints_nothing(capsys, total) -> None:
    with progress(total=total, desc="quick") as bar:
        for _ in range(3):
            bar.update()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch, capsys) -> None:
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress(range(3), "bar")) == [0, 1, 2]
    assert "100%" in capsys.readouterr().err
