"""A document compressor for LangChain (`pip install 'regionr1[langchain]'`).

compressor = RegionCompressor(reranker=reranker, top_n=5)
compressor.looking_at(image).compress_documents(documents, "Where does this bird live?")
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from pydantic import ConfigDict

from regionr1.data.images import open_image
from regionr1.errors import UserError
from regionr1.serve.region_reranker import RegionReranker


class RegionCompressor(BaseDocumentCompressor):
    """Re-ranks documents that have a picture by the region of the query image that is asked about.

    The order stays where the policy's answer cannot be read. Scores stand in the metadata as
    `relevance_score`. LangChain's queries are texts, so the image is given before.

    Attributes:
        reranker: Decides and ranks; remembers pictures that it has seen.
        image: The query image, or its file.
        top_n: Most documents that are returned; None for all.
        picture: Where a document's metadata hold the file of its picture.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    reranker: RegionReranker
    image: Any = None
    top_n: int | None = None
    picture: str = "image"

    def looking_at(self, image: object) -> "RegionCompressor":
        """Make the compressor of another query image, given as a PIL image or its file."""
        return self.model_copy(update={"image": image})

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The documents, best first."""
        if not documents:
            return []
        if self.image is None:
            raise UserError("the query has no image: compressor.looking_at(image) gives it one")
        image = self.image
        if isinstance(image, str | Path):
            image = open_image(Path(image), "the query image")
        keys = [f"{doc.metadata.get(self.picture)}\n{doc.page_content}" for doc in documents]
        pool = [self._candidate(*pair) for pair in zip(documents, keys, strict=True)]
        found = self.reranker.rerank(image, query, pool, keys=keys)
        if found.order is None or found.scores is None:
            return list(documents)[: self.top_n]
        ranked = [
            documents[place].model_copy(
                update={"metadata": {**documents[place].metadata, "relevance_score": score}}
            )
            for place, score in zip(found.order, found.scores, strict=True)
        ]
        return ranked[: self.top_n]

    def _candidate(self, document: Document, key: str) -> Any:
        if key in self.reranker.memory:
            return None
        path = document.metadata.get(self.picture)
        if path is None:
            raise UserError(f"a document has no picture: metadata[{self.picture!r}] is its file")
        return open_image(Path(path), "a document"), document.page_content
