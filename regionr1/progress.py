"""Progress of what takes long: a bar on a terminal, and elsewhere a line a minute."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
EVERY_S = 60.0
LINE = (
    "{desc}: {n_fmt}/{total_fmt} ({percentage:.0f}%), {elapsed} so far, {remaining} left{postfix}"
)
ENDLESS = "{desc}: {n_fmt}, {elapsed} so far{postfix}"


class _Lines:
    """A log: what would be drawn over becomes a line of its own."""

    def write(self, text: str) -> None:
        """Prints a line."""
        if line := text.strip("\r\n "):
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Every line is flushed."""


def progress(
    items: Iterable[Item] | None = None,
    desc: str = "",
    total: int | None = None,
    unit: str = "it",
    **options: Any,
) -> "tqdm[Item]":
    """A tqdm bar on a terminal; elsewhere, in a log, a line a minute after the first one.

    Args:
        items: What to go through, if it is not counted by hand.
        desc: What is done.
        total: How many there are.
        unit: Of what.
        options: Of tqdm.
    """
    if sys.stderr.isatty():
        return tqdm(items, desc, total, unit=unit, **options)
    known = total is not None or hasattr(items, "__len__")
    quiet = {"mininterval": EVERY_S, "maxinterval": EVERY_S, "delay": EVERY_S, "miniters": 1}
    return tqdm(
        items,
        desc,
        total,
        file=_Lines(),
        unit=unit,
        bar_format=LINE if known else ENDLESS,
        **{**options, **quiet, "disable": bool(options.get("disable"))},
    )


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
