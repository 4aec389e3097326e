"""A limit, a permission or a full disk is said as such: it is no damage, and costs no work."""

import builtins
import errno
import gc
import io
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from evqa_files import ColourScorer, EvqaFiles, make_evqa, prepare_shards

from regionr1.data.build import store as store_module
from regionr1.data.build.add_scorer import _open_staging
from regionr1.data.build.embed import embed_kb, embed_queries
from regionr1.data.build.query_store import QueryStore
from regionr1.data.build.stages import ScorerOptions
from regionr1.data.build.store import EmbeddingStore
from regionr1.data.build.write import is_current
from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.shards.index import load_index, verify_index
from regionr1.data.shards.stream import read_samples
from regionr1.errors import MachineError

DAMAGE = ("damaged", "corrupt", "remove", "build the shards again", "truncated")


@pytest.fixture
def files(tmp_path: Path) -> EvqaFiles:
    (tmp_path / "data").mkdir()
    files = make_evqa(tmp_path / "data", {"train": 12, "val": 12, "test": 80})
    files.write()
    return files


@contextmanager
def open_files_limited_to(more: int) -> Iterator[None]:
    """Lets this process open so many files beside those that it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def refusing(monkeypatch: pytest.MonkeyPatch, end: str, number: int) -> Iterator[None]:
    """Every file whose name ends so cannot be opened, as the machine would say it."""
    real = io.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith(end):
            raise OSError(number, "the machine says no", str(path))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", refuse)  # what pathlib calls
        patch.setattr(builtins, "open", refuse)  # what NumPy and WebDataset call
        yield


def test_a_store_of_more_parts_than_files_may_be_open(files, monkeypatch) -> None:
    monkeypatch.setattr(store_module, "_OPEN_PARTS", 8)
    options = ScorerOptions(batch_size=1, part_size=1)
    work = files.root.parent / "work"
    with open_files_limited_to(20):
        embed_queries(EvqaSource(files.root), ColourScorer(), work, "test", False, options)()
        store = QueryStore(work / "queries-test", "embed again")
        assert len(store) == len(store._starts) == 81
        rows = np.random.default_rng(0).permutation(len(store))
        found = store.vectors(rows)
        assert np.array_equal(np.concatenate(list(store.blocks()))[rows], found)
        assert np.array_equal(store.vectors(rows[:9]), found[:9])  # whose parts were closed


def test_whole_shards_are_made_with_few_files_open(files, monkeypatch) -> None:
    monkeypatch.setattr(store_module, "_OPEN_PARTS", 8)
    out = files.root.parent / "shards"
    gc.collect()  # what other tests left open
    with open_files_limited_to(70):
        prepare_shards(
            EvqaSource(files.root), ColourScorer(), out, k=4, samples_per_shard=1, part_size=1
        )
        index = verify_index(out, "test", checksums=True)
        assert len(index.shards) > 70
        assert len(list(read_samples(out, index))) == index.n_samples


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_it_is_never_called_damage(files, monkeypatch, number) -> None:
    out, work = files.root.parent / "shards", files.root.parent / "work"
    prepare_shards(EvqaSource(files.root), ColourScorer(), out, k=4, samples_per_shard=3)
    embed_kb(EvqaSource(files.root), ColourScorer(), work, ScorerOptions())()
    built = load_index(out, "val").built_from

    def tried(end: str, act) -> str:
        with refusing(monkeypatch, end, number), pytest.raises(MachineError) as caught:
            act()
        assert "the machine says no" in str(caught.value) and end in str(caught.value)
        assert not any(word in str(caught.value) for word in DAMAGE), caught.value
        return str(caught.value)

    index = load_index(out, "val")
    kb = EmbeddingStore(work / "kb", "embed again")
    said = [
        tried("complete.json", lambda: EmbeddingStore(work / "kb", "embed again")),
        tried(".npy", lambda: kb.vectors([0])),
        tried("val.index.json", lambda: load_index(out, "val")),
        tried("val-000000.tar", lambda: verify_index(out, "val", checksums=True)),
        tried("val-000001.tar", lambda: list(read_samples(out, index))),
        tried("val-000001.tar", lambda: is_current(out, "val", built, overwrite=True)),
        tried("val.index.json", lambda: is_current(out, "val", built, overwrite=True)),
        tried(".jpg", lambda: embed_kb(
            EvqaSource(files.root), ColourScorer(), work / "anew", ScorerOptions())),
    ]  # fmt: skip
    assert number != errno.EMFILE or all("ulimit -n" in text for text in said)


def test_what_a_killed_run_left_stays_when_it_cannot_be_read(tmp_path, monkeypatch) -> None:
    staging = tmp_path / "staging"
    _open_staging(staging, {"of": "these"})
    (staging / "whole.tar").write_bytes(b"hours of work")
    with (
        refusing(monkeypatch, "identity.json", errno.EMFILE),
        pytest.raises(MachineError, match="ulimit"),
    ):
        _open_staging(staging, {"of": "these"})
    assert (staging / "whole.tar").exists()
    _open_staging(staging, {"of": "others"})
    assert not (staging / "whole.tar").exists()
