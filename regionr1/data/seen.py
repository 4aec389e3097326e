"""Finding what occurs twice among millions of names, in 8 bytes for each."""

from __future__ import annotations

import hashlib

import numpy as np

_RECENT = 1 << 16


class Seen:
    """A set of names by digests of 8 bytes: whole names would take ten times the memory.

    Two of six million names share a digest once in a million such sets.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted = np.empty(0, np.uint64)

    def add(self, name: str) -> bool:
        """Add a name; returns whether it was there already."""
        digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
        if digest in self._recent:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(digest)))
        if place < len(self._sorted) and int(self._sorted[place]) == digest:
            return True
        self._recent.add(digest)
        if len(self._recent) >= max(_RECENT, len(self._sorted) // 8):
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, recent]))
            self._recent.clear()
        return False
