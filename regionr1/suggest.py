"""The nearest of several names, for what was mistyped."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(typed: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?`, or nothing where no name is near.

    Args:
        typed: What there is none of.
        known: What there is.
    """
    found = get_close_matches(typed, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""
