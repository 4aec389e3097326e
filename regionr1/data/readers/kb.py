"""Reader of E-VQA's knowledge base: one JSON object ``{wikipedia_url: entry}``.

EchoSight's ``wiki_100_dict_v4.json`` for InfoSeek and OMGM's ``wiki_corpus.json`` are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from regionr1.data.readers.json_object import scan_object
from regionr1.data.readers.kb_images import KbImages
from regionr1.data.records import Entity
from regionr1.data.seen import Seen
from regionr1.errors import UserError

WHAT = "the knowledge base"
_LISTS = ("section_titles", "section_texts", "image_urls")


def read_entities(path: Path, images: KbImages) -> Iterator[Entity]:
    """Yield the pages of an E-VQA knowledge base in file order, holding one at a time.

    An image counts as resolved when the mapping names a file for its URL and the file exists;
    others are counted in ``Entity.n_unresolved`` (a large part of the real KB has no pixels).

    Args:
        path: ``encyclopedic_kb_wiki.json``.
        images: Where the files of image URLs are.

    Raises:
        UserError: A file is missing or broken, or an entry is malformed (its key is named).
    """
    seen = Seen()
    for number, (url, entry) in enumerate(scan_object(path, WHAT), start=1):
        if seen.add(url):
            raise UserError(
                f"{path}: KB entry {url!r} occurs twice, the second time as entry {number:,}; "
                "keep one."
            )
        _check_entry(entry, url, path)
        found = tuple(file for file in map(images.find, entry["image_urls"]) if file is not None)
        lead = entry["section_texts"][0] if entry["section_texts"] else ""
        yield Entity(
            id=url,
            title=entry["title"],
            text=f"{entry['title']}\n{lead}".strip(),
            image_paths=found,
            n_unresolved=len(entry["image_urls"]) - len(found),
        )


def _check_entry(entry: object, url: str, path: Path) -> None:
    where = f"{path}: KB entry {url!r}"
    if not isinstance(entry, dict):
        raise UserError(f"{where} must be an object, not a {type(entry).__name__}.")
    if not isinstance(entry.get("title"), str):
        raise UserError(f"{where} has no text field 'title'.")
    if entry.get("url", url) != url:
        raise UserError(f"{where} has the other url {entry['url']!r}; both must be equal.")
    for name in _LISTS:
        value = entry.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(f"{where} must have a list of texts {name!r}.")
    if len(entry["section_titles"]) != len(entry["section_texts"]):
        raise UserError(
            f"{where} has {len(entry['section_titles'])} section titles for "
            f"{len(entry['section_texts'])} section texts; they must be parallel."
        )
