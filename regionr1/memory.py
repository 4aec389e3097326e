"""Memory that was freed stays with the process, for the next activations to take.

glibc maps every large tensor from the operating system and hands it back when it is freed, so that
a step pays for fetching and clearing the same pages again and again: a third of the processor time
of a pass over 64 crops. Programs that train or embed ask for it once, at their start.
"""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt's names, from malloc.h
_LARGEST_INT = 2**31 - 1
_kept = False


def keep_freed_memory() -> None:
    """Has glibc serve large allocations from the heap, and keep the heap's freed end.

    What the process holds stays at its peak. Nothing is done where there is another C library, or
    where the environment sets one of glibc's `MALLOC_` variables: then the user has decided.
    """
    global _kept
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _LARGEST_INT, _TOP_PAD: 64 << 20}
    _kept = all([mallopt(name, value) == 1 for name, value in wanted.items()])


def freed_memory_is_kept() -> bool:
    """Whether large allocations are cheap in this process."""
    return _kept
