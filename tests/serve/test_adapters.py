"""Places for a re-ranker in other libraries, with the libraries themselves where installed."""

from pathlib import Path

import pytest
from PIL import Image
from written_policy import ANSWERS, COLOURS, answering, colour_reranker, encoded, scene

from regionr1 import RegionReranker
from regionr1.errors import UserError

NAMES = ("green", "red", "blue")  # as retrieved


@pytest.fixture(scope="module")
def reranker(tiny_policy: Path) -> RegionReranker:
    return RegionReranker(answering(tiny_policy, ANSWERS), colour_reranker())


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    """The query image, and one of each colour."""
    scene().save(tmp_path / "query.png")
    for name in NAMES:
        place = ("red", "green", "blue").index(name)
        Image.new("RGB", (8, 8), COLOURS[place]).save(tmp_path / f"{name}.png")
    return {path.stem: path for path in tmp_path.iterdir()}


def test_langchain(reranker, pictures) -> None:
    pytest.importorskip("langchain_core", reason="pip install 'regionr1[langchain]'")
    from langchain_core.documents import Document

    from regionr1.serve.langchain import RegionCompressor

    documents = [Document(name, metadata={"image": str(pictures[name])}) for name in NAMES]
    compressor = RegionCompressor(reranker=reranker)
    with pytest.raises(UserError, match="the query has no image"):
        compressor.compress_documents(documents, "red?")
    looking = compressor.looking_at(pictures["query"])
    found = looking.compress_documents(documents, "red?")
    assert [doc.page_content for doc in found] == ["red", "green", "blue"]
    assert found[0].metadata["relevance_score"] == pytest.approx(1.0, abs=1e-5)
    assert "relevance_score" not in documents[1].metadata
    for name in NAMES:
        pictures[name].unlink()  # they are remembered
    again = compressor.looking_at(scene()).model_copy(update={"top_n": 1})
    assert [doc.page_content for doc in again.compress_documents(documents, "all?")] == ["green"]
    kept = looking.compress_documents(documents, "what?")
    assert [doc.page_content for doc in kept] == list(NAMES), "INVALID keeps the order"
    assert looking.compress_documents([], "red?") == []
    for metadata, words in (({}, "has no picture"), ({"image": "nowhere.png"}, "does not exist")):
        with pytest.raises(UserError, match=words):
            looking.compress_documents([Document("x", metadata=metadata)], "red?")


def test_llama_index(reranker, pictures) -> None:
    pytest.importorskip("llama_index.core", reason="pip install 'regionr1[llama-index]'")
    from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode

    from regionr1.serve.llama_index import RegionPostprocessor

    def picture(name: str) -> str:
        return encoded(Image.open(pictures[name]))

    nodes = [
        NodeWithScore(node=ImageNode(text="green", image=picture("green")), score=0.9),
        NodeWithScore(node=ImageNode(text="red", image_path=str(pictures["red"])), score=0.8),
    ]
    processor = RegionPostprocessor(reranker=reranker)

    def order(question: str) -> list[str]:
        query = QueryBundle(question, image_path=str(pictures["query"]))
        return [found.node.text for found in processor.postprocess_nodes(nodes, query)]

    assert order("red?") == ["red", "green"] and order("all?") == ["green", "red"]
    assert order("what?") == ["green", "red"], "INVALID keeps the order"
    processor.top_n = 1
    assert order("red?") == ["red"]
    with pytest.raises(UserError, match="the query has no image"):
        processor.postprocess_nodes(nodes, query_str="red?")
    text = [NodeWithScore(node=TextNode(text="no picture"), score=0.1)]
    with pytest.raises(UserError, match="has no picture; retrieve image nodes"):
        processor.postprocess_nodes(text, QueryBundle("red?", image_path=str(pictures["query"])))
