"""Reader of the toy data set of CONTRIBUTING's recipe: tab-separated lines."""

from collections.abc import Iterator
from pathlib import Path

from regionr1.data.readers.base import Source
from regionr1.data.records import Entity, MissingImage, Query, SkipReport
from regionr1.errors import UserError


class ToySource(Source):
    """A folder with `entities.tsv` (id, picture) and a `SPLIT.tsv` (picture, question, id) each.

    Args:
        root: The folder.
        kb: Name of the file of entities; None for `entities.tsv`.
    """

    name = "toy"

    def __init__(self, root: Path, kb: str | None = None) -> None:
        self.root = Path(root)
        self.kb_path = self.root / (kb or "entities.tsv")

    def read(self, split: str, report: SkipReport) -> Iterator[Query | MissingImage]:
        """Yield the queries of a split in file order."""
        for where, (picture, question, entity) in self._lines(self.questions_path(split), 3):
            key = f"{split}-{where.rpartition(':')[2]}"
            path = self.root / picture
            if path.is_file():
                yield Query(key, path, question, (entity,), entity, "toy", "toy", split)
            else:
                yield MissingImage(where, f"file {path}", "toy", "toy", (entity,))

    def entities(self, report: SkipReport) -> Iterator[Entity]:
        """Yield the entities in file order."""
        for _, (entity, picture) in self._lines(self.kb_path, 2):
            yield Entity(entity, entity, entity, (self.root / picture,))

    def questions_path(self, split: str) -> Path:
        """The lines of a split."""
        return self.root / f"{split}.tsv"

    def files(self, split: str) -> list[Path]:
        """The lines of a split."""
        return [self.questions_path(split)]

    def kb_files(self) -> list[Path]:
        """The entities."""
        return [self.kb_path]

    def missing(self) -> list[str]:
        """What is not there, one sentence each."""
        return [] if self.kb_path.is_file() else [f"{self.kb_path.name} is missing"]

    @staticmethod
    def _lines(path: Path, fields: int) -> Iterator[tuple[str, list[str]]]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            parts = line.split("\t")
            if len(parts) != fields:
                raise UserError(f"{path}:{number}: {len(parts)} fields, expected {fields}")
            yield f"{path}:{number}", parts
