"""From the image ids of published questions to files, in every layout people keep them in."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import ijson

from regionr1.data.readers.json_object import json_reason, scan_object
from regionr1.data.readers.key_index import KeyIndex
from regionr1.data.readers.tables import resolve_inside
from regionr1.errors import UserError
from regionr1.files import refused, whole_file

OVEN_EXTENSIONS = (".jpg", ".JPEG", ".jpeg", ".png", ".JPG", ".webp")
_CATEGORY = re.compile(r"(?:^|/)(\d{5})_")


class NoImages(UserError):
    """A folder of images, or what tells their names, is not there at all."""


class ImageFinder(Protocol):
    """Finds the file of an image id."""

    def find(self, image_id: str, category: str, where: str) -> Path | str:
        """The file, or the reason why there is none."""


class InatImages:
    """iNaturalist 2021 images of one part.

    Names come from EchoSight's ``<part>_id2name.json`` ({id: file}), or from the published COCO
    ``<part>.json``, from which that file is written once. With neither, or where the named file
    is missing, the flat ``<id>.jpg`` counts.

    Args:
        root: Folder of the names and images.
        part: ``train`` or ``val`` of iNaturalist.
    """

    def __init__(self, root: Path, part: str) -> None:
        self.root = root
        self.names_path = root / f"{part}_id2name.json"
        self.coco_path = root / f"{part}.json"
        self._names: KeyIndex | None = None
        self._flat_only = False

    def find(self, image_id: str, category: str, where: str) -> Path | str:
        """The file, or the reason why there is none.

        Raises:
            UserError: The folder or the names are missing, or the names contradict the category.
        """
        names = self._open()
        flat = self.root / f"{image_id}.jpg"
        if names is None:
            return flat if flat.is_file() else f"file {flat}"
        name = names.get(image_id)
        if name is None:
            return flat if flat.is_file() else f"image id {image_id} is not in {names.source}"
        claimed = _CATEGORY.search(name)
        if claimed and category.isdecimal() and int(claimed[1]) != int(category):
            raise UserError(
                f"{where}: image id {image_id} of category {category} is {name!r} in "
                f"{names.source}; these names are of another version or part of iNaturalist."
            )
        path = self.root / name
        if path.is_file():
            return path
        return flat if flat.is_file() else f"file {path}"

    def files(self) -> list[Path]:
        """Text files that decide which image an id has."""
        return [path for path in (self.names_path, self.coco_path) if path.is_file()][:1]

    def _open(self) -> KeyIndex | None:
        if self._names is not None or self._flat_only:
            return self._names
        if not self.root.is_dir():
            raise NoImages(f"{self.root}: no such folder; it should hold iNaturalist's images.")
        if not self.names_path.is_file() and self.coco_path.is_file():
            _write_names(self.coco_path, self.names_path)
        if self.names_path.is_file():
            what = "the mapping of iNaturalist image ids to files"
            self._names = KeyIndex(self.names_path, what, self._entries)
        else:
            if next(self.root.glob("*.jpg"), None) is None:
                raise NoImages(
                    f"{self.names_path}: the mapping of iNaturalist image ids to files is missing, "
                    f"and so are {self.coco_path.name} and files named <id>.jpg; add one of them."
                )
            self._flat_only = True
        return self._names

    def _entries(self) -> Iterator[tuple[str, str]]:
        what = "the mapping of iNaturalist image ids to files"
        for image_id, name in scan_object(self.names_path, what):
            path = resolve_inside(self.root, name, f"{self.names_path}, id {image_id}")
            yield image_id, path.relative_to(self.root).as_posix()


def _write_names(coco: Path, names: Path) -> None:
    """Write ``{id: file_name}`` of a COCO file's images, streaming it."""
    try:
        with coco.open("rb") as file, whole_file(names) as partial, partial.open("w") as out:
            before = "{"
            for image in ijson.items(file, "images.item"):
                pair = f"{json.dumps(str(image['id']))}: {json.dumps(image['file_name'])}"
                out.write(before + pair)
                before = ",\n"
            if before == "{":
                raise UserError(f"{coco}: no list 'images'; this is no COCO file of iNaturalist.")
            out.write("}\n")
    except (ijson.JSONError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{coco}: not a COCO file with images of 'id' and 'file_name' "
            f"({json_reason(error)}), perhaps a truncated download; fetch it again."
        ) from error
    except OSError as error:
        raise refused(coco, error) from error


class LandmarkImages:
    """Google Landmarks v2 train images, nested as published (``a/b/c/abc....jpg``) or flat.

    Args:
        root: Folder of the images.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._checked = False

    def find(self, image_id: str, category: str, where: str) -> Path | str:
        """The file, or the reason why there is none.

        Raises:
            UserError: The folder is missing, or the id is no landmark id.
        """
        if len(image_id) < 3:
            raise UserError(f"{where}: landmark image id {image_id!r} is too short.")
        if not self._checked and not self.root.is_dir():
            raise NoImages(
                f"{self.root}: no such folder; it should hold Google Landmarks v2's train images."
            )
        self._checked = True
        nested = self.root / Path(*image_id[:3]) / f"{image_id}.jpg"
        if nested.is_file():
            return nested
        flat = self.root / f"{image_id}.jpg"
        return flat if flat.is_file() else f"file {nested}"


class OvenImages:
    """OVEN images: flat, or below the first two digits of the id, with any usual extension.

    ``ovenid2impath.csv`` (``oven_id,source_path``, with or without a header) is asked last, for
    images that still lie where their source data set has them.

    Args:
        root: Folder of the images.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table_path = root / "ovenid2impath.csv"
        self._table: KeyIndex | None = None
        self._checked = False

    def find(self, image_id: str, category: str, where: str) -> Path | str:
        """The file, or the reason why there is none.

        Raises:
            UserError: The folder is missing.
        """
        if not self._checked and not self.root.is_dir():
            raise NoImages(f"{self.root}: no such folder; it should hold OVEN's images.")
        self._checked = True
        for folder in (self.root, self.root / image_id[-8:-6]):
            for extension in OVEN_EXTENSIONS:
                path = folder / f"{image_id}{extension}"
                if path.is_file():
                    return path
        if self.table_path.is_file():
            if self._table is None:
                self._table = KeyIndex(self.table_path, "OVEN's table of files", self._entries)
            name = self._table.get(image_id)
            if name is not None and (path := self.root / name).is_file():
                return path
        return f"file {self.root / image_id[-8:-6] / image_id}.jpg (or flat, or .JPEG, .png...)"

    def files(self) -> list[Path]:
        """Text files that decide which image an id has."""
        return [self.table_path] if self.table_path.is_file() else []

    def _entries(self) -> Iterator[tuple[str, str]]:
        try:
            with self.table_path.open(encoding="utf-8-sig", newline="") as file:
                for number, fields in enumerate(csv.reader(file), start=1):
                    if number == 1 and fields[:1] == ["oven_id"]:
                        continue
                    if len(fields) != 2:
                        raise UserError(
                            f"{self.table_path}:{number}: expected an OVEN id and a path."
                        )
                    where = f"{self.table_path}:{number}"
                    path = resolve_inside(self.root, fields[1], where)
                    yield fields[0], path.relative_to(self.root).as_posix()
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{self.table_path}: malformed CSV ({error}).") from error
