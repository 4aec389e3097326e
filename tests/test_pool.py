"""Candidate pools: exact search, positives as retrieved, everything left out counted."""

import numpy as np
import pytest
import torch
from evqa_files import ColourScorer, make_evqa, url_of

from regionr1.data.evqa import EvqaSource
from regionr1.data.pool import KnowledgeIndex, PoolBuilder, as_finite_array, embed_knowledge_base
from regionr1.data.records import SkipReport
from regionr1.errors import UserError


def random_index(n: int, dim: int = 8) -> KnowledgeIndex:
    vectors = np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"e{i // 2}" for i in range(n)]
    return KnowledgeIndex(vectors, ids, [f"{i}.jpg" for i in range(n)], frozenset(ids))


def test_pools_are_the_exact_nearest_best_first() -> None:
    index = random_index(50)
    full = index.embeddings[[3, 17]] * 0.9 + index.embeddings[[4, 20]] * 0.1
    pool = PoolBuilder(index, k=7).build(full)
    expected = np.argsort(-(full @ index.embeddings.T), axis=1)[:, :7]
    assert np.array_equal(pool.indices, expected)
    assert np.array_equal(pool.embeddings, index.embeddings[expected])


def test_small_knowledge_base_gives_all() -> None:
    builder = PoolBuilder(random_index(6), k=20)
    assert builder.k == 6
    assert sorted(builder.build(builder.index.embeddings[:1]).indices[0]) == list(range(6))
    with pytest.raises(UserError, match="k=0"):
        PoolBuilder(random_index(6), k=0)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_knowledge_base_is_counted(tmp_path, batch_size) -> None:
    files = make_evqa(tmp_path)
    files.kb[url_of(9)] = {**files.kb[url_of(4)], "url": url_of(9), "image_urls": []}
    files.write()
    (tmp_path / "wiki_images/002/1.jpg").write_bytes(b"not an image")
    for n in range(2):
        (tmp_path / f"wiki_images/003/{n}.jpg").write_bytes(b"")
    report = SkipReport()
    source = EvqaSource(tmp_path)
    index = embed_knowledge_base(source.entities(), ColourScorer(), report, tmp_path, batch_size)
    assert index.embeddings.shape == (7, 12)
    assert index.entity_ids == [url_of(n) for n in (0, 0, 1, 1, 2, 4, 4)]
    assert index.image_names[0] == "wiki_images/000/0.jpg"
    assert index.known_ids == {url_of(n) for n in (0, 1, 2, 3, 4, 9)}
    assert report.as_dict() == {
        "KB image without a file": 5,
        "unreadable KB image": 3,
        "KB entity without a usable image": 2,
    }


def test_no_usable_image_at_all(tmp_path) -> None:
    files = make_evqa(tmp_path)
    files.mapping.clear()
    files.write()
    with pytest.raises(UserError, match="no usable image"):
        embed_knowledge_base(
            EvqaSource(tmp_path).entities(), ColourScorer(), SkipReport(), tmp_path
        )


def test_non_finite_embeddings_name_their_image() -> None:
    vectors = torch.ones(3, 4)
    vectors[1, 2] = float("nan")
    with pytest.raises(UserError, match="^b: .*non-finite"):
        as_finite_array(vectors, ["a", "b", "c"])
