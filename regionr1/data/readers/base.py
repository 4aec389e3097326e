"""What a reader of published files offers, and the choice of one by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from regionr1.data.readers.query_images import ImageFinder, NoImages
from regionr1.data.records import Entity, MissingImage, Query, SkipReport
from regionr1.errors import UserError

SPLITS = ("train", "val", "test")
NO_IMAGE_ID = "question without an image id"


class Source(ABC):
    """Queries and entities of one folder of published files.

    Attributes:
        name: Name of the layout.
        root: The folder.
        kb_path: The knowledge base.
        has_two_hop: Whether the data set has questions over two pages.
        include_two_hop: Whether those are kept.
        tolerant: Whether a folder of images that is not there counts as images that are not there,
            instead of ending the reading.
    """

    name: str
    root: Path
    kb_path: Path
    has_two_hop: bool = False
    include_two_hop: bool = False
    tolerant: bool = False

    def find_image(
        self, finder: ImageFinder, image_id: str, category: str, where: str
    ) -> Path | str:
        """The file of an image, or the reason why there is none.

        Raises:
            UserError: As the finder says.
        """
        try:
            return finder.find(image_id, category, where)
        except NoImages as error:
            if not self.tolerant:
                raise
            return str(error)

    @abstractmethod
    def __init__(self, root: Path, kb: str | None = None) -> None:
        """Open a folder.

        Args:
            root: The folder.
            kb: Name of the knowledge-base file in it; None for the layout's usual one.

        Raises:
            UserError: The folder does not exist.
        """

    @abstractmethod
    def read(self, split: str, report: SkipReport) -> Iterator[Query | MissingImage]:
        """Yield every image-question pair of a split in file order.

        Args:
            split: ``train``, ``val`` or ``test``.
            report: Receives what is left out on purpose, and why.

        Raises:
            UserError: A malformed record, named by file and line.
        """

    @abstractmethod
    def questions_path(self, split: str) -> Path:
        """The file of a split's questions, whether it exists or not."""

    @abstractmethod
    def entities(self, report: SkipReport) -> Iterator[Entity]:
        """Yield the pages of the knowledge base in file order, each id once.

        Args:
            report: Receives what is left out on purpose, and why.

        Raises:
            UserError: A malformed record, or an id that occurs twice, named by file and line.
        """

    @abstractmethod
    def files(self, split: str) -> list[Path]:
        """Text files that decide what ``split`` contains, those that exist, in a fixed order."""

    @abstractmethod
    def kb_files(self) -> list[Path]:
        """Text files that decide what the knowledge base contains."""

    @abstractmethod
    def missing(self) -> list[str]:
        """What this layout needs and the folder lacks, one sentence each."""

    def present(self, split: str, report: SkipReport, skip_missing: bool) -> Iterator[Query]:
        """Yield the queries of a split whose image has a file; holds one at a time.

        Args:
            split: ``train``, ``val`` or ``test``.
            report: Receives what is left out and why.
            skip_missing: Leave out and count queries without an image file instead of raising.

        Raises:
            UserError: A malformed record (named by file and line), or missing image files.
        """
        if not skip_missing:
            self._refuse_missing(split)
        for item in self.read(split, report):
            if isinstance(item, Query):
                yield item
            else:
                report.add("missing query image", f"{item.where}: {item.reason}")

    def queries(self, split: str, report: SkipReport, skip_missing: bool = False) -> list[Query]:
        """Returns what `present` yields as a list."""
        return list(self.present(split, report, skip_missing))

    def _refuse_missing(self, split: str) -> None:
        total, n_missing, first = 0, 0, ""
        for item in self.read(split, SkipReport()):
            total += 1
            if isinstance(item, MissingImage):
                n_missing += 1
                first = first or f"{item.where}: {item.reason}"
        if n_missing:
            raise UserError(
                f"{n_missing} of {total} query images of {self.questions_path(split)} are "
                f"missing, the first at {first}; add them, or leave them out with "
                "--skip_missing true."
            )
