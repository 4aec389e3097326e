"""Which reader reads which layout: a data set is one line here and one file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from regionr1.data.readers.base import Source
from regionr1.errors import UserError

SourceName = Literal["evqa", "infoseek", "own"]


def open_source(
    name: SourceName, root: Path, kb: str | None = None, include_two_hop: bool = False
) -> Source:
    """The reader of a layout.

    Args:
        name: ``evqa``, ``infoseek`` or ``own``.
        root: Folder of the published files.
        kb: Name of the knowledge-base file in it; None for the usual one.
        include_two_hop: E-VQA only: keep two-hop questions, with both pages as gold.

    Raises:
        UserError: There is no such folder.
    """
    from regionr1.data.readers.evqa import EvqaSource
    from regionr1.data.readers.infoseek import InfoseekSource
    from regionr1.data.readers.own import OwnSource

    if name == "evqa":
        return EvqaSource(root, kb, include_two_hop)
    if include_two_hop:
        raise UserError(f"include_two_hop: only E-VQA has two-hop questions, not {name!r}.")
    if name == "infoseek":
        return InfoseekSource(root, kb)
    return OwnSource(root, kb)
