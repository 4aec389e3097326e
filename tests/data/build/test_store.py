"""Embedding stores: whole parts only, nothing done twice, nothing of another scorer."""

import errno
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from evqa_files import ColourScorer, EvqaFiles, make_evqa, url_of
from PIL import Image

from regionr1.data.build.embed import (
    as_finite_array,
    embed_kb,
    embed_queries,
)
from regionr1.data.build.query_store import QueryStore
from regionr1.data.build.stages import ScorerOptions
from regionr1.data.build.store import EmbeddingStore
from regionr1.data.build.store_writer import Share
from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.records import SkipReport
from regionr1.errors import UserError

SMALL = ScorerOptions(batch_size=2, part_size=3)


@pytest.fixture
def files(tmp_path) -> EvqaFiles:
    (tmp_path / "data").mkdir()
    files = make_evqa(tmp_path / "data")
    files.write()
    return files


def store(folder) -> EmbeddingStore:
    return EmbeddingStore(folder, "embed again")


def embedded(files, scorer=None, options=SMALL, work="work", **more) -> EmbeddingStore:
    folder = files.root.parent / work
    embed_kb(EvqaSource(files.root), scorer or ColourScorer(), folder, options, **more)()
    return store(folder / "kb")


@pytest.mark.parametrize("part_size", [1, 3, 100])
def test_rows_are_the_scorers_vectors(files, part_size) -> None:
    kb = embedded(files, options=ScorerOptions(batch_size=4, part_size=part_size))
    images = [Image.open(files.root / kb.row(n)[1]).convert("RGB") for n in range(len(kb))]
    expected = ColourScorer().embed_images(images).numpy()
    assert np.allclose(kb.vectors(range(len(kb))), expected, atol=1e-6)
    assert np.array_equal(np.concatenate(list(kb.blocks())), kb.vectors(range(len(kb))))
    assert [kb.row(n)[0] for n in range(10)] == [url_of(n // 2) for n in range(10)]
    assert kb.rows_of(url_of(3)) == [6, 7] and kb.entity_at(3) == url_of(3)
    assert kb.counts == {
        "rows": 10, "entities": 5, "owners": 5, "KB image without a file": 5,
    }  # fmt: skip


def test_knowledge_base_is_counted(files) -> None:
    files.kb[url_of(9)] = {**files.kb[url_of(4)], "url": url_of(9), "image_urls": []}
    files.write()
    (files.root / "wiki_images/002/1.jpg").write_bytes(b"not an image")
    for n in range(2):
        (files.root / f"wiki_images/003/{n}.jpg").write_bytes(b"")
    kb = embedded(files)
    assert [kb.row(n)[0] for n in range(7)] == [url_of(n) for n in (0, 0, 1, 1, 2, 4, 4)]
    assert kb.row(0)[1] == "wiki_images/000/0.jpg"
    assert kb.counts["unreadable KB image"] == 3 and kb.counts["KB image without a file"] == 5
    assert (kb.counts["entities"], kb.counts["owners"]) == (6, 4)
    assert kb.knows(url_of(9)) and kb.rows_of(url_of(9)) == [] and not kb.knows(url_of(7))


def test_queries_come_back_as_they_were_read(files) -> None:
    source, work = EvqaSource(files.root), files.root.parent / "work"
    embed_queries(source, ColourScorer(), work, "train", False, SMALL)()
    rows = QueryStore(work / "queries-train", "embed again")
    found = [query for row in range(len(rows)) for query in rows.questions(row)]
    found = [replace(query, image_path=files.root / query.image_path) for query in found]
    assert found == source.queries("train", SkipReport())


def test_two_processes_write_what_one_does(files) -> None:
    alone = embedded(files)
    source, work = EvqaSource(files.root), files.root.parent / "both"
    complete = [
        embed_kb(source, ColourScorer(), work, SMALL, share=Share(rank, 2)) for rank in (1, 0)
    ]
    complete[1]()
    both = store(work / "kb")
    assert both.digest == alone.digest and both.counts == alone.counts
    assert np.array_equal(both.vectors(range(10)), alone.vectors(range(10)))
    assert not list((work / "kb").glob("entities-*"))


class Killed(BaseException):
    """What no handler of errors catches."""


class DyingScorer(ColourScorer):
    """Is killed at its n-th call."""

    def __init__(self, dies_at: int) -> None:
        super().__init__()
        self.dies_at = dies_at

    def embed_images(self, images):
        if self.calls == self.dies_at:
            raise Killed
        return super().embed_images(images)


@pytest.mark.parametrize("dies_at", range(7))
def test_a_killed_run_goes_on(files, dies_at) -> None:
    with pytest.raises(Killed):
        embedded(files, DyingScorer(dies_at))
    folder = files.root.parent / "work" / "kb"
    with pytest.raises(UserError, match=r"complete\.json: missing; incomplete: embed again"):
        store(folder)
    (folder / ".part-000000.npy.partial-1").write_bytes(b"left by the kill")
    scorer = ColourScorer()
    kb = embedded(files, scorer)
    # 10 images in parts of 3, each of 2 calls but the last: what was whole is not done again.
    assert scorer.calls == 7 - 2 * (dies_at // 2)
    again = ColourScorer()
    assert embedded(files, again).digest == kb.digest and again.calls == 0
    assert np.array_equal(kb.vectors([0, 9]), embedded(files, work="other").vectors([0, 9]))


def test_a_replaced_image_is_embedded_again(files) -> None:
    before = embedded(files)
    Image.new("RGB", (90, 90), "white").save(files.root / "wiki_images/004/1.jpg")
    scorer = ColourScorer()
    after = embedded(files, scorer)
    assert scorer.calls == 1 and after.digest != before.digest


def test_a_full_disk_leaves_nothing_half_written(files, monkeypatch) -> None:
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="part-.*No space left on device.*run the same command"):
            embedded(files)
    assert not list((files.root.parent / "work" / "kb").glob(".*"))
    kb = embedded(files)
    assert np.isfinite(kb.vectors(range(10))).all()


def test_other_origins_are_refused(files) -> None:
    embedded(files)
    with pytest.raises(UserError, match="made with another scorer; name another work folder"):
        embedded(files, ColourScorer("other"))
    with pytest.raises(UserError, match="another part size"):
        embedded(files, options=ScorerOptions(batch_size=2, part_size=4))
    for page in files.kb.values():
        page["image_urls"] = []
    files.write()
    with pytest.raises(UserError, match="another files"):
        embedded(files)


def test_a_mended_record_costs_its_own_part(files) -> None:
    before = embedded(files)
    files.kb[url_of(2)]["title"] = "Renamed"  # images 4 and 5, of the second part of 3
    files.write()
    scorer = ColourScorer()
    after = embedded(files, scorer)
    assert scorer.calls == 2 and after.digest != before.digest
    assert np.array_equal(after.vectors(range(10)), before.vectors(range(10)))
    assert embedded(files, work="anew").digest == after.digest


def test_damage_is_seen(files) -> None:
    kb = embedded(files)
    (kb.folder / "part-000001.npy").write_bytes(b"x")
    with pytest.raises(UserError, match=r"part-000001\.npy: damaged"):
        store(kb.folder).vectors([4])
    (kb.folder / "complete.json").write_text("{")
    with pytest.raises(UserError, match=r"complete\.json: damaged .*remove it and"):
        store(kb.folder)
    (kb.folder / "identity.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="not of format"):
        store(kb.folder)


def test_half_precision_on_disk(files) -> None:
    kb = embedded(files, options=ScorerOptions(), dtype="float16")
    exact = embedded(files, work="exact").vectors(range(10))
    assert np.load(kb.folder / "part-000000.npy").dtype == np.float16
    assert np.allclose(kb.vectors(range(10)), exact, atol=1e-3)
    assert np.allclose(np.linalg.norm(kb.vectors(range(10)), axis=1), 1)


def test_non_finite_embeddings_name_their_image() -> None:
    vectors = torch.ones(3, 4)
    vectors[1, 2] = float("nan")
    with pytest.raises(UserError, match="^b: .*non-finite"):
        as_finite_array(vectors, ["a", "b", "c"])
