"""A node post-processor for LlamaIndex (`pip install 'regionr1[llama-index]'`).

processor = RegionPostprocessor(reranker=reranker, top_n=5)
processor.postprocess_nodes(nodes, QueryBundle("Where does this bird live?", image_path="a.jpg"))
"""

from io import BytesIO
from pathlib import Path
from typing import Any

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle

from regionr1.data.images import open_image
from regionr1.errors import UserError
from regionr1.serve.region_reranker import RegionReranker


class RegionPostprocessor(BaseNodePostprocessor):
    """Re-ranks image nodes by the region of the query image that is asked about.

    The order stays where the policy's answer cannot be read.

    Attributes:
        reranker: Decides and ranks; remembers pictures that it has seen.
        top_n: Most nodes that are returned; None for all.
    """

    reranker: RegionReranker
    top_n: int | None = None

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows it."""
        return "RegionPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        if query_bundle is None or query_bundle.image_path is None:
            raise UserError("the query has no image: QueryBundle(question, image_path=FILE)")
        image = open_image(Path(query_bundle.image_path), "the query image")
        keys = [found.node.hash for found in nodes]
        pool = [self._candidate(found.node, key) for found, key in zip(nodes, keys, strict=True)]
        ranked = self.reranker.rerank(image, query_bundle.query_str, pool, keys=keys)
        if ranked.order is None or ranked.scores is None:
            return nodes[: self.top_n]
        pairs = zip(ranked.order, ranked.scores, strict=True)
        found = [NodeWithScore(node=nodes[place].node, score=score) for place, score in pairs]
        return found[: self.top_n]

    def _candidate(self, node: Any, key: str) -> Any:
        if key in self.reranker.memory:
            return None
        if not isinstance(node, ImageNode):
            raise UserError(f"node {node.node_id} has no picture; retrieve image nodes")
        source = node.resolve_image()
        picture = source.getvalue() if isinstance(source, BytesIO) else Path(source)
        return open_image(picture, f"node {node.node_id}"), node.text
