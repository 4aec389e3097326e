"""Reader of Wiki6M, InfoSeek's own knowledge base: one article per line, by Wikidata id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from regionr1.data.readers.tables import json_lines, text_of
from regionr1.data.records import Entity
from regionr1.errors import UserError

WIKI6M_NAMES = ("Wiki6M_ver_1_0.jsonl.gz", "Wiki6M_ver_1_0.jsonl")
IMAGES = "wikipedia_images_full"
_QID = re.compile(r"Q[0-9]+")
_EXTENSIONS = (".jpg", ".JPEG", ".jpeg", ".png", ".JPG", ".webp")


def read_wiki6m(path: Path, root: Path) -> Iterator[Entity]:
    """Yield the articles in file order, holding one at a time.

    An article names at most one image, and its file is
    ``wikipedia_images_full/<first 4 characters of the id>/<id>.jpg``, as OVEN's dump unpacks.

    Args:
        path: ``Wiki6M_ver_1_0.jsonl``, plain or gzipped.
        root: Folder of the images.

    Raises:
        UserError: The file is missing or broken, or a record is malformed.
    """
    for line, record in json_lines(path, ("wikidata_id", "wikipedia_title"), "Wiki6M's articles"):
        where = f"{path}:{line}"
        qid = text_of(record, "wikidata_id", where)
        if not _QID.fullmatch(qid):
            raise UserError(f"{where}: wikidata_id {qid!r} is not of the form Q123.")
        title = text_of(record, "wikipedia_title", where)
        lead = record.get("wikipedia_summary") or record.get("wikipedia_content") or ""
        if not isinstance(lead, str):
            raise UserError(f"{where}: the article's text is a {type(lead).__name__}.")
        image = _image(root, qid)
        named = bool(record.get("wikipedia_image_url"))
        yield Entity(
            id=qid,
            title=title,
            text=f"{title}\n{lead.split('## ', 1)[0]}".strip(),
            image_paths=() if image is None else (image,),
            n_unresolved=int(named and image is None),
        )


def _image(root: Path, qid: str) -> Path | None:
    folder = root / IMAGES / qid[:4]
    return next((path for end in _EXTENSIONS if (path := folder / f"{qid}{end}").is_file()), None)
