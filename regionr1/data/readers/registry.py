"""Which reader reads which layout: a data set is one word here and one file beside it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal

from regionr1.data.readers.base import Source
from regionr1.errors import UserError

SourceName = Literal["evqa", "infoseek", "own"]
"""The layouts; `name` is read by the class `NameSource` in the file `name.py` beside this one."""


def open_source(
    name: SourceName, root: Path, kb: str | None = None, include_two_hop: bool = False
) -> Source:
    """The reader of a layout.

    Args:
        name: Of the layout.
        root: Folder of the published files.
        kb: Name of the knowledge-base file in it; None for the usual one.
        include_two_hop: Keep two-hop questions, with both pages as gold.

    Raises:
        UserError: There is no such folder, or the data set has no two-hop questions.
    """
    module = import_module(f"{__package__}.{name}")
    reader: type[Source] = getattr(module, f"{name.capitalize()}Source")
    if include_two_hop and not reader.has_two_hop:
        raise UserError(f"include_two_hop: {name!r} has no two-hop questions; E-VQA has.")
    source = reader(root, kb)
    source.include_two_hop = include_two_hop
    return source
