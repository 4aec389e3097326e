"""Pools: the nearest images, or the pages that another system found."""

import functools
import json
import pickle

import faiss
import numpy as np
import pytest
from evqa_files import ColourScorer, EvqaFiles, make_evqa, prepare_shards, url_of

from regionr1.data.build import pools_imported
from regionr1.data.build.embed import embed_kb, embed_queries
from regionr1.data.build.pipeline import make_pools
from regionr1.data.build.pools import build_index, open_index, open_pools
from regionr1.data.build.pools_imported import pages_of, retrieved_pages
from regionr1.data.build.query_store import QueryStore
from regionr1.data.build.safe_pickle import load_int_list
from regionr1.data.build.stages import PoolOptions, ScorerOptions, ShardOptions
from regionr1.data.build.store import EmbeddingStore
from regionr1.data.build.write import shards_from_work
from regionr1.data.readers import key_index
from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.records import SkipReport
from regionr1.data.shards.index import load_index
from regionr1.data.shards.stream import read_samples
from regionr1.errors import UserError


class Work:
    """A small data set whose knowledge base and test queries are embedded."""

    def __init__(self, tmp_path) -> None:
        (tmp_path / "data").mkdir()
        self.files: EvqaFiles = make_evqa(tmp_path / "data")
        self.files.write()
        self.folder = tmp_path / "work"
        self.out = tmp_path / "shards"
        self.embed()

    def embed(self, scorer: str = "colour", split: str = "test") -> None:
        source = EvqaSource(self.files.root)
        embed_kb(source, ColourScorer(), self.folder, ScorerOptions(part_size=4))()
        embed_queries(source, ColourScorer(scorer), self.folder, split, False, ScorerOptions())()

    @property
    def kb(self) -> EmbeddingStore:
        return EmbeddingStore(self.folder / "kb", "embed")

    @property
    def queries(self) -> QueryStore:
        return QueryStore(self.folder / "queries-test", "embed")

    def pool(self, index="auto", **options):
        make_pools(self.folder, ["test"], PoolOptions(splits=("test",), **options), index)
        return open_pools(self.folder, "test")

    def shards(self, **options):
        made = ShardOptions(out=self.out, splits=("test",), **options)
        return shards_from_work(made, self.files.root, self.folder)[0]


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(tmp_path)


def test_pools_are_the_exact_nearest_best_first(work) -> None:
    pools = work.pool(k=7)
    full, kb = work.queries.vectors(range(6)), work.kb.vectors(range(10))
    expected = np.sort(-(full @ kb.T), axis=1)[:, :7]
    found = np.stack([-(full[n] @ kb[rows].T) for n, rows in enumerate(pools.rows)])
    assert np.allclose(found, expected, atol=1e-6)
    assert pools.k == 7 and work.pool(k=20).k == 10  # a small knowledge base gives all
    with pytest.raises(UserError, match="k=0"):
        work.pool(k=0)


def test_an_inverted_file_finds_nearly_the_same(work) -> None:
    exact = work.pool(k=4).rows.copy()
    rows = work.pool(k=4, index="IVF2,Flat").rows
    assert {tuple(sorted(row)) for row in rows} == {tuple(sorted(row)) for row in exact}
    with pytest.raises(UserError, match="'IVF2,Nonsense': FAISS knows no such index"):
        work.pool(k=4, index="IVF2,Nonsense")
    with pytest.raises(UserError, match="'IVF64,Flat' cannot be trained on 10 images"):
        work.pool(k=4, index="IVF64,Flat")


def test_index_and_pools_are_kept_and_refused(work, monkeypatch) -> None:
    work.pool(k=4)
    with monkeypatch.context() as patch:
        patch.setattr(faiss, "write_index", lambda *_: pytest.fail("built again"))
        patch.setattr("regionr1.data.build.pools.write_pools", lambda *_: pytest.fail("made again"))
        work.pool(k=4)
    (work.files.root / "wiki_images/001/0.jpg").unlink()
    work.embed()
    with pytest.raises(UserError, match="is the index of other embeddings"):
        open_index(work.kb, work.folder)
    with pytest.raises(UserError, match=r"pool-test\.json: is of other embeddings .*pool again"):
        work.shards()
    build_index(work.kb, work.folder)
    assert open_index(work.kb, work.folder).ntotal == 9
    (work.folder / "index.faiss").write_bytes(b"x")
    with pytest.raises(UserError, match=r"index\.faiss: damaged"):
        open_index(work.kb, work.folder)


def test_queries_of_another_scorer_are_refused(work) -> None:
    import shutil

    shutil.rmtree(work.folder / "queries-test")
    work.embed(scorer="other")
    with pytest.raises(UserError, match="queries are of scorer other but .* of colour"):
        work.pool()


def test_stages_give_the_shards_of_one_run(work) -> None:
    work.pool(k=4)
    staged = work.shards()
    source = EvqaSource(work.files.root)
    at_once = prepare_shards(source, ColourScorer(), work.out.with_name("once"), ["test"], k=4)[0]
    assert [shard.sha256 for shard in staged.shards] == [shard.sha256 for shard in at_once.shards]
    assert staged.groups["source"] == {"landmarks": [4, 4], "inaturalist": [2, 2]}
    assert work.shards() == staged
    work.pool(k=3)
    with pytest.raises(UserError, match="built from other files"):
        work.shards()
    assert work.shards(overwrite=True).k == 3


def test_missing_stages_say_what_to_run(tmp_path, work) -> None:
    with pytest.raises(UserError, match=r"pool-test\.json: missing; make it with `regionr1 data p"):
        work.shards()
    with pytest.raises(UserError, match=r"queries-val.*missing; embed with `regionr1 data embed`"):
        make_pools(work.folder, ["val"], PoolOptions())
    with pytest.raises(UserError, match=r"kb/identity\.json: missing; embed with"):
        make_pools(tmp_path / "empty", ["test"], PoolOptions())


# ---- pools of other systems ---------------------------------------------------------------------


def write_results(work, record, **more):
    """A result file in EchoSight's layout (or OMGM's), for the 5 rows of test."""
    path = work.files.root.parent / "results.json"
    path.write_text(json.dumps({**{f"E-VQA_{n}": record(n) for n in range(5)}, **more}))
    return path


def echosight(n: int) -> dict:
    order = [url_of((n + i) % 5) for i in (1, 0, 1, 2)]  # with a repeated page
    return {"retrieved_entries": order, "retrieval_similarities": [0.9, 0.8, 0.7, 0.6]}


def omgm(n: int) -> dict:
    return {
        "retrieved_entities": [
            {"url": url, "title": "t"} for url in echosight(n)["retrieved_entries"]
        ]
    }


@pytest.mark.parametrize("record", [echosight, omgm])
def test_results_become_pools_of_pages(work, record) -> None:
    pools = work.pool(k=20, results=write_results(work, record))
    # The first row has two images; result files know the first one only.
    assert pools.about["skipped"] == {"no retrieval result for the query": 1}
    assert (pools.rows[1] == -1).all()
    full = work.queries.vectors([2])[0]
    rows = [row for row in pools.rows[2] if row >= 0]
    assert [work.kb.row(row)[0] for row in rows] == [url_of(2), url_of(1), url_of(3)]
    for row in rows:  # of each page, the image nearest to the query
        own = work.kb.rows_of(work.kb.row(row)[0])
        assert row == own[np.argmax(work.kb.vectors(own) @ full)]
    index = work.shards()
    assert (index.n_samples, index.skipped) == (5, {"no retrieval result for the query": 1})
    sample = next(iter(read_samples(work.out, load_index(work.out, "test"))))
    assert len(sample.candidate_ids) == 3
    assert np.all(np.diff(sample.candidates @ sample.full) <= 1e-6)


def test_pages_that_cannot_be_shown_are_counted(work) -> None:
    for n in range(2):
        (work.files.root / f"wiki_images/003/{n}.jpg").unlink()
    work.embed()

    def record(n: int) -> dict:
        return {"retrieved_entries": ["https://nowhere", url_of(3), url_of(0)]}

    pools = work.pool(k=20, results=write_results(work, record))
    assert pools.about["skipped"] == {
        "retrieved page is not in the knowledge base": 5,
        "retrieved page without a usable image": 5,
        "no retrieval result for the query": 1,
    }


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"retrieved": []}, "'E-VQA_0': has no list 'retrieved_entries'"),
        ([], "has no list"),
        ({"retrieved_entries": [3]}, "neither a URL nor an object"),
        ({"retrieved_entities": [{"title": "t"}]}, "neither a URL nor an object"),
    ],
)
def test_malformed_results(work, record, message) -> None:
    with pytest.raises(UserError, match=message):
        work.pool(results=write_results(work, lambda n: record))


def test_results_of_another_split(work) -> None:
    path = work.files.root.parent / "results.json"
    path.write_text(json.dumps({"infoseek_val_00000000": echosight(0)}))
    with pytest.raises(UserError, match="no result for any of the 6 test queries .*'E-VQA_0'"):
        work.pool(results=path)
    assert pages_of(["a", "b", "a"], "here") == ["a", "b"]


def test_a_large_result_file_gets_an_index_that_is_used_again(tmp_path, monkeypatch) -> None:
    path = tmp_path / "results.json"
    long = {"url": "a", "text": "long " * 1000}
    records = {"q1": {"retrieved_entries": [long, "b"]}, "q2": {"retrieved_entities": ["c"]}}
    path.write_text(json.dumps({**records, "q3": 4}))
    first = retrieved_pages(path, in_memory_below=0)
    assert [first.get(key) for key in ("q1", "q2", "q3", "q4")] == [
        '["a", "b"]', '["c"]', "null", None
    ]  # fmt: skip
    beside = path.with_name("results.json" + key_index.SUFFIX)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.json", beside.name]
    with monkeypatch.context() as patch:
        patch.setattr(pools_imported, "scan_object", lambda *_: pytest.fail("read again"))
        assert retrieved_pages(path, in_memory_below=0).get("q2") == '["c"]'
    path.write_text(json.dumps({"q1": {"retrieved_entries": ["d"]}}))
    assert retrieved_pages(path, in_memory_below=0).get("q1") == '["d"]'
    beside.write_bytes(b"damaged")
    assert retrieved_pages(path, in_memory_below=0).get("q1") == '["d"]'
    path.write_text('{"q1": 1, "q2": ')
    beside.unlink()
    with pytest.raises(UserError, match="truncated"):
        retrieved_pages(path, in_memory_below=0)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    path.write_text('{"q1": 1, "q1": 2}')
    with pytest.raises(UserError, match="'q1' occurs twice in the retrieval results"):
        retrieved_pages(path)


def write_faiss(work, ids) -> str:
    folder = work.files.root.parent / "their_index"
    folder.mkdir(exist_ok=True)
    index = faiss.IndexFlatIP(12)
    index.add(np.ascontiguousarray(work.kb.vectors(range(10))))
    faiss.write_index(index, str(folder / "kb_index.faiss"))
    (folder / "kb_index_ids.pkl").write_bytes(pickle.dumps(ids))
    return folder


def test_echosights_index_finds_pages(work) -> None:
    pools = work.pool(k=3, faiss=write_faiss(work, [n // 2 for n in range(10)]))
    assert pools.rows.shape == (6, 3)
    assert [work.kb.row(rows[0])[0] for rows in pools.rows[:3]] == [url_of(0), url_of(0), url_of(1)]
    index = work.shards()
    assert index.n_with_positive == 6


def test_an_image_with_several_questions_is_looked_up_once(work, monkeypatch) -> None:
    rows = work.files.rows["test"]
    rows += [{**rows[1], "question": f"And {n}?"} for n in range(2)]
    work.files.write()
    folder = write_faiss(work, [n // 2 for n in range(10)])
    for n in range(2):  # counted for each question whose pool it would have been in
        (work.files.root / f"wiki_images/003/{n}.jpg").unlink()
    work.embed()
    look_up, calls = pools_imported._nearest_images, []

    def counted(kb, full, pages, k, skipped, asked):
        calls.append((full, pages, asked))
        return look_up(kb, full, pages, k, skipped, asked)

    monkeypatch.setattr(pools_imported, "_nearest_images", counted)
    pools = work.pool(k=5, faiss=folder)
    assert [asked for *_, asked in calls] == [1, 1, 3, 1, 1, 1]
    plain = SkipReport()
    by_question = [
        look_up(work.kb, full, pages, 5, plain)
        for full, pages, asked in calls
        for _ in range(asked)
    ]
    assert np.array_equal(pools.rows, np.concatenate(by_question))
    assert pools.about["skipped"] == plain.as_dict() == {"retrieved page without a usable image": 8}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 1], "holds 2 ids for 10 rows"),
        ([0] * 9 + [5], "names page 5 but the knowledge base has 5"),
        (list(map(str, range(10))), "item 0 is '0'; every one must be an integer"),
        ([0] * 9 + [-1], "item 9 is -1"),
        ([True] * 10, "item 0 is True"),
        ({"ids": [1]}, "holds a dict, not a list of integers"),
        (np.arange(10), r"refused, .*it names numpy\."),
    ],
)
def test_index_ids_that_do_not_fit(work, ids, message) -> None:
    with pytest.raises(UserError, match=message):
        work.pool(faiss=write_faiss(work, ids))


def test_a_pickle_runs_nothing(tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return functools.partial(open, str(tmp_path / "ran"), "w"), ()

    path = tmp_path / "ids.pkl"
    for payload in (
        pickle.dumps([0, Evil()]),
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"",
        b"\x80\x05",
    ):
        path.write_bytes(payload)
        with pytest.raises(UserError, match="refused, because it is no plain pickled list"):
            load_int_list(path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="the list of index ids is missing"):
        load_int_list(tmp_path / "gone.pkl")


def test_an_index_of_other_vectors(work) -> None:
    path = work.files.root.parent / "summary_llama3.index"
    for dim, n, message in [
        (7, 5, "vectors of 7 numbers where the scorer gives 12"),
        (12, 4, "holds 4 rows where the knowledge base has 5 pages"),
    ]:
        index = faiss.IndexFlatIP(dim)
        index.add(np.eye(n, dim, dtype=np.float32))
        faiss.write_index(index, str(path))
        with pytest.raises(UserError, match=message):
            work.pool(faiss=path)
    path.write_bytes(b"no index")
    with pytest.raises(UserError, match="damaged, or no FAISS index"):
        work.pool(faiss=path)


def test_one_source_of_pools(work, tmp_path) -> None:
    with pytest.raises(UserError, match="two sources of pools"):
        PoolOptions(results=tmp_path, faiss=tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        PoolOptions(results=tmp_path / "gone.json", splits=("test",))


def test_no_usable_image_at_all(tmp_path) -> None:
    files = make_evqa(tmp_path)
    files.mapping.clear()
    files.write()
    with pytest.raises(UserError, match="no usable image"):
        prepare_shards(EvqaSource(tmp_path), ColourScorer(), tmp_path / "out")
