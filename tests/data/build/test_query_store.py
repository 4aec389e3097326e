"""The query store: every image of a split once, and all questions about it beside."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evqa_files import ColourScorer, prepare_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from own_files import make_asked
from PIL import Image

from regionr1.data.build.embed import embed_kb, embed_queries
from regionr1.data.build.pipeline import make_pools
from regionr1.data.build.pools import open_pools
from regionr1.data.build.query_store import UNREADABLE, QueryStore
from regionr1.data.build.stages import PoolOptions, ScorerOptions
from regionr1.data.build.store import EmbeddingStore
from regionr1.data.build.store_writer import Share
from regionr1.data.readers.own import OwnSource
from regionr1.data.records import SkipReport
from regionr1.errors import UserError

ASKED = [3, 1, 3, 2, 1, 3, 0, 7]
SMALL = ScorerOptions(batch_size=2, part_size=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_asked(tmp_path / "own", {"test": ASKED})


def embed(root: Path, scorer: ColourScorer, work: Path, skip: bool = False) -> QueryStore:
    embed_queries(OwnSource(root), scorer, work, "test", skip, SMALL)()
    return QueryStore(work / "queries-test", "embed again")


def numbers(store: QueryStore, row: int) -> list[int]:
    """Lines of the questions about an image."""
    return [int(query.data_id.removeprefix("test.")) for query in store.questions(row)]


@settings(max_examples=20, deadline=None)
@given(asked=st.lists(st.integers(0, 9), min_size=1, max_size=25))
def test_an_image_is_a_row_and_every_question_is_there(tmp_path_factory, asked) -> None:
    root = make_asked(tmp_path_factory.mktemp("any") / "own", {"test": asked})
    store = embed(root, ColourScorer(), root.parent / "work")
    images = list(dict.fromkeys(asked))
    assert [store.row(row)[0] for row in range(len(store))] == [f"test-{n}.png" for n in images]
    for row, image in enumerate(images):
        assert numbers(store, row) == [i for i, n in enumerate(asked) if n == image]
        assert store.starts[row + 1] - store.starts[row] == asked.count(image)
    assert store.n_questions == store.counts["questions"] == len(asked)
    read = {query.key: query for query in OwnSource(root).queries("test", SkipReport())}
    found = [query for row in range(len(store)) for query in store.questions(row)]
    found = [replace(query, image_path=root / query.image_path) for query in found]
    assert {query.key: query for query in found} == read and len(found) == len(read)
    pictures = [Image.open(root / f"test-{n}.png") for n in images]
    expected = ColourScorer().embed_images(pictures).numpy()
    assert np.allclose(store.vectors(range(len(store))), expected, atol=1e-6)


def test_an_image_is_embedded_once_and_changed_questions_cost_nothing(root, tmp_path) -> None:
    scorer = ColourScorer()
    before = embed(root, scorer, tmp_path / "work")
    assert scorer.calls == 3  # 5 images in parts of 2
    assert before.summary() == ["queries-test: 5 images of 8 questions"]
    path = root / "test.jsonl"
    path.write_text(path.read_text().replace("Question 4?", "Another question?"))
    after = embed(root, scorer, tmp_path / "work")
    assert scorer.calls == 3 and after.digest != before.digest
    assert "Another question?" in [query.question for query in after.questions(1)]
    assert not list(after.folder.glob("questions-*"))


def test_two_processes_write_what_one_does(root, tmp_path) -> None:
    alone = embed(root, ColourScorer(), tmp_path / "work")
    completes = [
        embed_queries(
            OwnSource(root), ColourScorer(), tmp_path / "both", "test", False, SMALL,
            share=Share(rank, 2),
        )
        for rank in (1, 0)
    ]  # fmt: skip
    completes[1]()
    both = QueryStore(tmp_path / "both" / "queries-test", "embed again")
    assert (both.digest, both.counts) == (alone.digest, alone.counts)
    assert np.array_equal(both.vectors(range(5)), alone.vectors(range(5)))
    assert [both.questions(row) for row in range(5)] == [alone.questions(row) for row in range(5)]
    assert not list(both.folder.glob("questions-*"))


def test_an_unreadable_image_is_counted_by_its_questions(root, tmp_path) -> None:
    (root / "test-3.png").write_bytes(b"no image")
    (root / "test-2.png").unlink()
    with pytest.raises(UserError, match=r"1 of 8 query images .* are missing"):
        embed(root, ColourScorer(), tmp_path / "work")
    store = embed(root, ColourScorer(), tmp_path / "work", skip=True)
    assert (len(store), store.n_questions) == (3, 4)
    assert store.left_out.counts == {UNREADABLE: 3, "missing query image": 1}
    assert store.left_out.first[UNREADABLE].startswith("test-0000001-test_0: image ")
    assert [numbers(store, row) for row in range(3)] == [[1, 4], [6], [7]]
    shutil.rmtree(tmp_path / "work")
    Image.new("RGB", (48, 40)).save(root / "test-2.png")
    with pytest.raises(UserError, match=r"^test-0000001-test_0: image .*test-3.png cannot be dec"):
        embed(root, ColourScorer(), tmp_path / "work")


def test_an_image_is_searched_once_and_all_its_questions_have_its_pool(root, tmp_path) -> None:
    work = tmp_path / "work"
    store = embed(root, ColourScorer(), work)
    embed_kb(OwnSource(root), ColourScorer(), work, SMALL)()
    kb = EmbeddingStore(work / "kb", "embed again")
    make_pools(work, ["test"], PoolOptions(splits=("test",), k=3))
    pools = open_pools(work, "test")
    assert pools.rows.shape == (8, 3)
    nearest = np.argsort(-store.vectors(range(5)) @ kb.vectors(range(6)).T, axis=1)[:, :3]
    for row in range(5):
        here = pools.rows[store.starts[row] : store.starts[row + 1]]
        assert (here == nearest[row]).all()


def test_imported_pools_may_differ_by_question(root, tmp_path) -> None:
    work = tmp_path / "work"
    store = embed(root, ColourScorer(), work)
    embed_kb(OwnSource(root), ColourScorer(), work, SMALL)()
    results = tmp_path / "results.json"
    found = {f"test.{i}": {"retrieved_entries": [f"e{i % 6}", "e5"]} for i in range(8) if i != 2}
    results.write_text(json.dumps(found))
    make_pools(work, ["test"], PoolOptions(splits=("test",), k=3, results=results))
    pools, kb = open_pools(work, "test"), EmbeddingStore(work / "kb", "embed again")
    assert pools.skipped.counts == {"no retrieval result for the query": 1}
    for row in range(len(store)):
        for number, line in enumerate(numbers(store, row), store.starts[row]):
            pages = [kb.row(found)[0] for found in pools.rows[number] if found >= 0]
            assert pages == ([] if line == 2 else list(dict.fromkeys([f"e{line % 6}", "e5"])))


def test_a_store_with_a_vector_per_question_is_refused(root, tmp_path) -> None:
    work = tmp_path / "work"
    store = embed(root, ColourScorer(), work)
    path = store.folder / "identity.json"
    identity = json.loads(path.read_text())
    assert identity["format"] == "regionr1-queries 2"
    path.write_text(json.dumps({**identity, "format": "regionr1-embeddings 1"}))
    refusal = r"queries-test: not of format .* remove this folder only and embed again, which keeps"
    with pytest.raises(UserError, match=refusal):
        QueryStore(store.folder, "embed again")
    with pytest.raises(UserError, match="another format; name .* or remove this one: those beside"):
        embed(root, ColourScorer(), work)
    shutil.rmtree(store.folder)
    assert embed(root, ColourScorer(), work).n_questions == 8


def test_shards_of_the_same_files_are_known_without_embedding(root, tmp_path) -> None:
    out, scorer = tmp_path / "shards", ColourScorer()
    first = prepare_shards(OwnSource(root), scorer, out, ["test"], k=4, part_size=2)
    assert (first[0].n_read, first[0].n_samples) == (8, 8)
    calls = scorer.calls
    assert prepare_shards(OwnSource(root), scorer, out, ["test"], k=4, part_size=2) == first
    assert scorer.calls == calls
