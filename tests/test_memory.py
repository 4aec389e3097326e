"""Freed memory is kept where it may be, and then large arrays cost no page faults."""

import os
import subprocess
import sys

import pytest
from checkout import ROOT

from regionr1 import memory

FAULTS = """
import resource, numpy
{keep}
def work():
    for _ in range(20):
        numpy.empty(48 << 20, numpy.uint8)[::4096] = 1
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEEP = "from regionr1.memory import keep_freed_memory as keep; keep()"


def faults(keep: str, **environment: str) -> int:
    """Page faults of writing to 20 arrays of 48 MiB, after 20 others, in a process of its own."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    # pages of 4 KiB: numpy asks for huge ones otherwise
    settings = {"PYTHONPATH": str(ROOT), "NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(keep=keep)],
        env=plain | settings | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_kept_memory_costs_no_page_faults() -> None:
    assert faults("") > 100_000
    assert faults(KEEP) < 1_000


GROWN = """
import threading, numpy
from regionr1 import memory
memory._EXCESS, memory._EVERY_S = 256 << 20, 3600  # when it looks is said below
memory.keep_freed_memory()
assert any(thread.name == "freed memory" for thread in threading.enumerate())
memory.give_back_excess()
start = memory._resident()
def after(n):  # MiB in memory above those at the start, once n arrays of 48 MiB were freed
    [numpy.ones(48 << 20, numpy.uint8) for _ in range(n)]
    kept = memory._resident()
    memory.give_back_excess()
    return kept - start >> 20, memory._resident() - start >> 20
print(*after(12), *after(4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_an_excess_is_handed_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROWN],
        env={k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    grown, left, less, kept = map(int, done.stdout.split())
    assert grown > 500 and left < 100, "beyond the excess"
    assert less > 150 and kept == less, "within it, kept for the next"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_what_the_environment_says_stays() -> None:
    assert faults(KEEP, MALLOC_MMAP_THRESHOLD_="1000000") > 100_000


def test_another_c_library_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # not called
    monkeypatch.setattr(memory, "_kept", False)
    memory.keep_freed_memory()
    assert not memory.freed_memory_is_kept()
