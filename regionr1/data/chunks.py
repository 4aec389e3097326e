"""Cutting a stream into lists."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of ``size``, the last one perhaps shorter; holds one at a time."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
