"""Memory that was freed stays with the process, for the next activations to take.

glibc maps every large tensor from the operating system and hands it back when it is freed, so that
a step pays for fetching and clearing the same pages again and again: a third of the processor time
of a pass over 64 crops. Programs that train or embed ask for it once, at their start.

glibc seldom fits a tensor into what another one of nearly its size left (it asks for more than a
freed one gives, to align it), so a heap that keeps everything grows with every new size of batch,
to several times what is in use. A thread therefore hands the excess back now and then.
"""

import ctypes
import os
import platform
import resource
import threading
import time
from pathlib import Path

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt's names, from malloc.h
_LARGEST_INT = 2**31 - 1
_EXCESS = 1 << 30  # bytes; fetching as many again takes a third of a second
_EVERY_S = 0.5
_kept = False
_most = 0  # bytes that may stay


def keep_freed_memory() -> None:
    """Has glibc serve large allocations from the heap, and keep most of what is freed.

    Nothing is done where there is another C library, or where the environment sets one of glibc's
    `MALLOC_` variables: then the user has decided.
    """
    global _kept
    if _kept:
        return
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _LARGEST_INT, _TOP_PAD: 64 << 20}
    _kept = all([mallopt(name, value) == 1 for name, value in wanted.items()])
    if _kept:
        threading.Thread(target=_watch, name="freed memory", daemon=True).start()


def freed_memory_is_kept() -> bool:
    """Whether large allocations are cheap in this process."""
    return _kept


def give_back_excess() -> None:
    """Hands freed memory back if there is 1 GiB more than was ever in use when it last did."""
    global _most
    if _resident() > _most:
        ctypes.CDLL(None).malloc_trim(0)
        _most = max(_most, _resident() + _EXCESS)  # steps may come to need more, and then keep it


def _watch() -> None:
    while True:
        time.sleep(_EVERY_S)
        give_back_excess()


def _resident() -> int:
    """Bytes of this process that are in memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()
