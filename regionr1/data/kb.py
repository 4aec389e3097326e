"""Reader of E-VQA's knowledge base: one JSON object ``{wikipedia_url: entry}``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from regionr1.data.records import Entity
from regionr1.errors import UserError

_LISTS = ("section_titles", "section_texts", "image_urls")


def load_json_object(path: Path, what: str) -> dict[str, Any]:
    """Load a JSON file whose top level must be an object.

    Args:
        path: The file.
        what: What the file is, for the error message.

    Raises:
        UserError: Missing, not UTF-8, not JSON (a truncated download included) or no object.
    """
    try:
        with path.open(encoding="utf-8") as file:
            value = json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: {what} is missing; put it there.") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: {what} is not valid JSON at column {error.colno} "
            f"({error.msg}), perhaps a truncated download; fetch it again."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: {what} is not UTF-8 at byte {error.start}; fetch it again."
        ) from error
    except OSError as error:
        raise UserError(f"{path}: {what} cannot be read ({error.strerror}).") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: {what} must be a JSON object, not a {type(value).__name__}.")
    return value


def resolve_inside(root: Path, relative: object, where: str) -> Path:
    """Join a relative path that a data file names, and refuse one that leaves ``root``."""
    if not isinstance(relative, str) or not relative:
        raise UserError(f"{where}: expected a relative file path, got {relative!r}.")
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"{where}: path {relative!r} leaves the data folder; make it relative.")
    return root / parts


def read_entities(kb_path: Path, mapping_path: Path, root: Path) -> Iterator[Entity]:
    """Yield the pages of an E-VQA knowledge base in file order.

    An image counts as resolved when the mapping names a file for its URL and the file exists;
    others are counted in ``Entity.n_unresolved`` (a large part of the real KB has no pixels).

    Args:
        kb_path: ``encyclopedic_kb_wiki.json``.
        mapping_path: ``url_to_path_mapping.json``: image URL to path relative to ``root``.
        root: Folder the mapped paths are relative to.

    Raises:
        UserError: A file is missing or broken, or an entry is malformed (its key is named).
    """
    files = load_json_object(mapping_path, "the mapping of KB image URLs to files")
    for url, entry in load_json_object(kb_path, "the knowledge base").items():
        _check_entry(entry, url, kb_path)
        where = f"{mapping_path}, KB entry {url!r}"
        named = [resolve_inside(root, files[u], where) for u in entry["image_urls"] if u in files]
        found = tuple(path for path in named if path.is_file())
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
