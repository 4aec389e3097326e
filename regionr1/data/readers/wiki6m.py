"""Reader of Wiki6M, InfoSeek's own knowledge base: one article per line, by Wikidata id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from regionr1.data.readers.tables import json_lines, text_of
from regionr1.data.records import Entity, SkipReport
from regionr1.data.seen import Seen
from regionr1.errors import UserError

WIKI6M_NAMES = ("Wiki6M_ver_1_0.jsonl.gz", "Wiki6M_ver_1_0.jsonl")
IMAGES = "wikipedia_images_full"
_QID = re.compile(r"Q[0-9]+")
_EXTENSIONS = (".jpg", ".JPEG", ".jpeg", ".png", ".JPG", ".webp")


def read_wiki6m(path: Path, root: Path, report: SkipReport) -> Iterator[Entity]:
    """Yield the articles in file order, holding one at a time.

    An article names at most one image, and its file is
    ``wikipedia_images_full/<first 4 characters of the id>/<id>.jpg``, as OVEN's dump unpacks. So
    of several rows with one id, which the published file has, the first says all.

    Args:
        path: ``Wiki6M_ver_1_0.jsonl``, plain or gzipped.
        root: Folder of the images.
        report: Receives rows without id or title, and those of an id that was there before.

    Raises:
        UserError: The file is missing or broken, or a record is malformed.
    """
    seen = Seen()
    for line, record in json_lines(path, (), "Wiki6M's articles"):
        where = f"{path}:{line}"
        if not record.get("wikidata_id") or not record.get("wikipedia_title"):
            report.add("article without an id or a title", where)
            continue
        qid = text_of(record, "wikidata_id", where)
        if not _QID.fullmatch(qid):
            raise UserError(f"{where}: wikidata_id {qid!r} is not of the form Q123.")
        if seen.add(qid):
            report.add("article of an id that came before", where)
            continue
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
