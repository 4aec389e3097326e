"""Other scorers' embeddings in the same shards: equal to a direct build, exact, all or nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT, TESTS
from evqa_files import ColourScorer, make_evqa, prepare_shards
from filelock import FileLock
from PIL import Image
from torch.nn.functional import normalize

from regionr1.cli.data import describe, premise, verify
from regionr1.cli.main import main
from regionr1.data.build import add_scorer as adding
from regionr1.data.build.stages import AddScorer
from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.shards.datamodule import RerankDataModule
from regionr1.data.shards.index import load_index, verify_index
from regionr1.data.shards.location import as_location
from regionr1.data.shards.stream import ShardStream, read_batches, read_samples
from regionr1.errors import UserError
from regionr1.scorers.base import Scorer
from regionr1.scorers.builtin import PixelScorer

SPLITS = ("train", "val", "test")
SIZES = {"train": 22, "val": 10, "test": 12}
PIXELS = PixelScorer().fingerprint()


class WordScorer(ColourScorer):
    """Reads the candidates' texts too, and says how many images it was shown.

    Args:
        dies_after: Ends its process, as a kill would, when it is shown more images.
    """

    seen = 0

    def __init__(self, dies_after: int | None = None) -> None:
        super().__init__("words")
        self.dies_after = dies_after

    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        WordScorer.seen += len(images)
        if self.dies_after is not None and WordScorer.seen > self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_images(images)

    def embed_candidates(self, images: Sequence[Image.Image], texts: Sequence[str]) -> torch.Tensor:
        words = torch.tensor([[float(text.encode()[n % 8]) for n in range(12)] for text in texts])
        return normalize(self.embed_images(images) + words / 500, dim=-1)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Shards whose pools are the whole knowledge base, so that every scorer has the same."""
    root = tmp_path_factory.mktemp("evqa") / "data"
    root.mkdir()
    make_evqa(root, SIZES).write()
    build(root, root.parent / "shards", ColourScorer())
    return root


def build(root: Path, out: Path, scorer: Scorer) -> None:
    prepare_shards(EvqaSource(root), scorer, out, k=10, samples_per_shard=5)


@pytest.fixture
def root(built, tmp_path) -> Path:
    """The published files beside shards that a test may change."""
    shutil.copytree(built.parent / "shards", tmp_path / "shards")
    return built


@pytest.fixture
def shards(root, tmp_path) -> Path:
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def added(built, tmp_path_factory) -> Path:
    """Shards to which `pixels` was added; not to be changed."""
    out = tmp_path_factory.mktemp("added") / "shards"
    shutil.copytree(built.parent / "shards", out)
    add_scorer(out, built, "pixels")
    return out


def add_scorer(shards: Path, root: Path, scorer: str, **options: object) -> None:
    AddScorer(shards=shards, root=root, scorer=scorer, **options).run()


def scorer_file(folder: Path, **arguments: object) -> str:
    path = folder / "words.yaml"
    made = {"class_path": "test_add_scorer.WordScorer", "init_args": arguments}
    path.write_text(json.dumps(made))
    return str(path)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def whole(folder: Path) -> dict[str, bytes]:
    """All but hidden files: what readers of the shards may find."""
    return {name: data for name, data in content(folder).items() if not name.startswith(".")}


@pytest.mark.parametrize("name", ["pixels", "words"])
def test_equal_to_shards_built_by_that_scorer(root, shards, tmp_path, name) -> None:
    scorer = PixelScorer() if name == "pixels" else WordScorer()
    before = whole(shards)
    add_scorer(shards, root, "pixels" if name == "pixels" else scorer_file(tmp_path))
    build(root, tmp_path / "direct", scorer)
    for split in SPLITS:
        ours = verify_index(shards, split, scorer.fingerprint(), checksums=True)
        direct = load_index(tmp_path / "direct", split)
        assert (ours.dim, ours.full_first) == (direct.dim, direct.full_first)
        own = read_samples(shards, load_index(shards, split))
        expected = {sample.key: sample for sample in read_samples(tmp_path / "direct", direct)}
        for sample, first in zip(read_samples(shards, ours), own, strict=True):
            other = expected.pop(sample.key)
            assert np.array_equal(sample.full, other.full)
            images = dict(zip(other.candidate_images, other.candidates, strict=True))
            rows = [images[image] for image in sample.candidate_images]
            assert np.array_equal(sample.candidates, np.stack(rows))
            # All but the embeddings stays as the shards' own scorer left it.
            assert sample.candidate_images == first.candidate_images
            assert sample.labels == first.labels
        assert not expected
    after = whole(shards)
    assert all(after[name] == data for name, data in before.items() if name.endswith(".tar"))


def test_only_pooled_images_are_embedded(root, tmp_path) -> None:
    out = tmp_path / "small"
    prepare_shards(EvqaSource(root), ColourScorer(), out, splits=["test"], k=1)
    (sample, *_) = samples = list(read_samples(out, load_index(out, "test")))
    pooled = {image for sample in samples for image in sample.candidate_images}
    assert len(pooled) < 10 and len(sample.candidate_images) == 1
    WordScorer.seen = 0
    add_scorer(out, root, scorer_file(tmp_path))
    assert WordScorer.seen == len(pooled) + len(samples)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_and_workers_read_every_sample_with_its_embeddings(added, ranks, workers) -> None:
    index = verify_index(added, "train", PIXELS)
    expected = {sample.key: sample for sample in read_samples(added, index)}
    scorer, seen = PixelScorer(), []
    for rank in range(ranks):
        stream = ShardStream(added, index, 3, rank=rank, world_size=ranks)
        for batch in read_batches(stream, workers, "fork"):
            torch.testing.assert_close(batch.full_embedding, scorer.embed_images(batch.images))
            for key, rows in zip(batch.keys, batch.candidates, strict=True):
                assert np.array_equal(rows.numpy(), expected[key].candidates)
            seen += batch.keys
    assert sorted(seen) == sorted(expected)


def test_training_shuffles_both_together(added) -> None:
    data = RerankDataModule(str(added), batch_size=5, shuffle_buffer=7)
    data.setup("fit")
    assert data.use_scorer("fit", PIXELS) and data.fingerprint("fit") == PIXELS
    scorer, loader = PixelScorer(), iter(data.train_dataloader())
    for _ in range(10):  # two passes
        batch = next(loader)
        torch.testing.assert_close(batch.full_embedding, scorer.embed_images(batch.images))
    assert data.use_scorer("fit", "colour") and data.fingerprint("fit") == "colour"
    assert next(iter(data.val_dataloader())).full_embedding.shape[1] == 12


def test_again_does_nothing_and_mends_what_is_damaged(root, shards, tmp_path) -> None:
    scorer = scorer_file(tmp_path)
    add_scorer(shards, root, scorer, splits=("val",))
    assert not load_index(shards, "train").scorers
    add_scorer(shards, root, scorer)
    first, WordScorer.seen = content(shards), 0
    add_scorer(shards, root, scorer)
    assert content(shards) == first and WordScorer.seen == 0
    (tar, *_) = shards.glob("scorer-*/test-000001.tar")
    tar.write_bytes(tar.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"altered; copy it again, or add the scorer again with"):
        verify(shards)
    add_scorer(shards, root, scorer)
    assert content(shards) == first
    add_scorer(shards, root, "pixels")
    assert [len(load_index(shards, split).scorers) for split in SPLITS] == [2, 2, 2]
    verify(shards)


@pytest.mark.parametrize("n_tars", [0, 2, 6])
def test_a_stop_leaves_nothing_half_written(root, shards, tmp_path, n_tars, monkeypatch) -> None:
    before, scorer = content(shards), scorer_file(tmp_path)
    write, calls = adding._Writer._write_tar, []

    def stopping(self, *args):
        calls.append(args)
        if len(calls) > n_tars:
            raise KeyboardInterrupt
        return write(self, *args)

    monkeypatch.setattr(adding._Writer, "_write_tar", stopping)
    with pytest.raises(KeyboardInterrupt):
        add_scorer(shards, root, scorer, splits=("train", "val"))
    found = whole(shards)
    for split in SPLITS:  # what an index names is whole; a split is added or it is not
        assert verify_index(shards, split, checksums=True) == load_index(shards, split)
        if not load_index(shards, split).scorers:
            assert all(found[n] == data for n, data in before.items() if n.startswith(split))
    assert bool(load_index(shards, "train").scorers) == (n_tars == 6)
    verify(shards)
    monkeypatch.setattr(adding._Writer, "_write_tar", write)
    WordScorer.seen = 0
    add_scorer(shards, root, scorer, splits=("train", "val"))
    n_samples = sum(load_index(shards, split).n_samples for split in ("train", "val"))
    assert WordScorer.seen == n_samples - min(5 * n_tars, 28)  # no candidate, no whole tar
    add_scorer(shards, root, scorer)
    assert not list(shards.glob(".scorer-*"))
    verify(shards)


@pytest.mark.slow
def test_a_kill_leaves_nothing_half_written(root, shards, tmp_path) -> None:
    before = whole(shards)
    command = [sys.executable, "-m", "regionr1", "data", "add-scorer", "--shards", str(shards),
               "--root", str(root), "--scorer", scorer_file(tmp_path, dies_after=8),
               "--batch_size", "4", "--part_size", "3"]  # fmt: skip
    paths = [str(Path(__file__).parent), str(TESTS), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert whole(shards) == before
    assert list(shards.glob(".scorer-*.partial/kb/part-*.json"))
    WordScorer.seen = 0
    add_scorer(shards, root, scorer_file(tmp_path), batch_size=4, part_size=3)
    assert WordScorer.seen < 10 + sum(load_index(shards, split).n_samples for split in SPLITS)
    verify(shards)


def test_what_another_input_left_is_not_gone_on_with(root, shards, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(adding._Writer, "_write_tar", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        add_scorer(shards, root, "pixels", part_size=3)
    monkeypatch.undo()
    add_scorer(shards, root, "pixels", part_size=4)
    verify(shards)


def test_built_again(root, shards) -> None:
    add_scorer(shards, root, "pixels")
    first = whole(shards)
    (shards / "val-000000.tar").write_bytes(b"damaged")
    build(root, shards, ColourScorer())  # the same shards again keep what was added to them
    assert whole(shards) == first
    prepare_shards(EvqaSource(root), ColourScorer(), shards, ["val"], k=3, overwrite=True)
    assert [len(load_index(shards, split).scorers) for split in SPLITS] == [1, 0, 1]
    assert not list(shards.glob("scorer-*/val-*")) and list(shards.glob("scorer-*/train-*"))
    with pytest.raises(UserError, match="add this scorer's with `regionr1 data add-scorer`"):
        verify_index(shards, "val", PIXELS)


def test_commands_speak_of_it(added, capsys) -> None:
    describe(added)
    told = capsys.readouterr().out
    verify(added)
    assert capsys.readouterr().out == told
    assert f"test: scorer {PIXELS} added, D=768: full CondR@1 " in told
    premise(added, scorer="pixels")
    assert f"scorer {PIXELS}, D=768" in capsys.readouterr().out


def test_from_elsewhere(added) -> None:
    location = as_location(f"pipe:cat {added}/{{name}}")
    verify(str(location))
    here = read_samples(added, verify_index(added, "test", PIXELS))
    there = read_samples(location, verify_index(location, "test", PIXELS))
    for a, b in zip(here, there, strict=True):
        assert a.key == b.key and np.array_equal(a.full, b.full)


def refused(*args: object) -> None:
    assert main(["data", "add-scorer", *map(str, args)]) == 2


def test_refusals(root, shards, tmp_path, capsys) -> None:
    named = ["--shards", shards, "--root", root]
    (tmp_path / "same.yaml").write_text('{"class_path": "evqa_files.ColourScorer"}')
    before = whole(shards)
    refused(*named, "--scorer", tmp_path / "same.yaml")
    assert "were made with this scorer, colour" in capsys.readouterr().err
    refused(*named, "--scorer", "nothing")
    assert "unknown scorer 'nothing'" in capsys.readouterr().err
    refused(*named, "--scorer", "pixels", "--splits", '["dev"]')
    assert "no complete dev shards" in capsys.readouterr().err
    refused(*named, "--scorer", "pixels", "--batch_size", 0)
    assert "batch_size=0: must be at least 1" in capsys.readouterr().err
    refused("--shards", tmp_path / "nowhere", "--root", root, "--scorer", "pixels")
    assert "no such folder; build shards first" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
    refused("--shards", "s3://bucket/shards", "--root", root, "--scorer", "pixels")
    assert "added to shards in a folder; copy them first" in capsys.readouterr().err
    with FileLock(shards / ".add-scorer.lock"):
        refused(*named, "--scorer", "pixels")
    assert "another process is adding a scorer" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    files = make_evqa(other, SIZES)
    for page in files.kb.values():
        page["image_urls"] = page["image_urls"][:1]
    files.write()
    refused("--shards", shards, "--root", other, "--scorer", "pixels")
    assert "is not in its knowledge base or cannot be read" in capsys.readouterr().err
    (shards / "test-000000.tar").write_bytes(b"")
    refused(*named, "--scorer", "pixels")
    assert "test-000000.tar: shard has 0 bytes" in capsys.readouterr().err
    (shards / "test-000000.tar").write_bytes(before["test-000000.tar"])
    assert whole(shards) == before


def copied(added: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Shards that a test may damage, and the second tar of what was added to test."""
    shutil.copytree(added, tmp_path / "copy")
    (tar, *_) = (tmp_path / "copy").glob("scorer-*/test-000001.tar")
    return tmp_path / "copy", tar


def test_damage_is_caught_up_front(added, tmp_path) -> None:
    folder, tar = copied(added, tmp_path)
    data, good = RerankDataModule(str(folder)), tar.read_bytes()
    data.setup("test")  # reads none of it
    for bad, message in (
        (
            good[:-512],
            r"scorer-\w+/test-000001\.tar: shard has .* truncated copy; copy it again, or",
        ),
        (good[:3000] + b"\x07" + good[3001:], r"test-000001\.tar: shard content was altered"),
        (None, r"test-000001\.tar: shard is missing; copy it again, or add the scorer again"),
    ):
        tar.unlink() if bad is None else tar.write_bytes(bad)
        with pytest.raises(UserError, match=message):
            data.use_scorer("test", PIXELS)
        with pytest.raises(UserError, match=message):
            verify(folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_after_the_check(added, tmp_path, workers) -> None:
    folder, tar = copied(added, tmp_path)
    data = RerankDataModule(str(folder), num_workers=workers)
    data.setup("test")
    assert not data.use_scorer("test", "other") and data.use_scorer("test", PIXELS)
    good = tar.read_bytes()
    tar.write_bytes(good[:2000])
    with pytest.raises(UserError, match=r"test-000001\.tar: shard (is corrupt|ends) after"):
        list(data.test_dataloader())
    tar.write_bytes(tar.with_name("test-000000.tar").read_bytes())
    with pytest.raises(UserError, match="has sample .* where .* so it belongs to other shards"):
        list(data.test_dataloader())
    (tar.parent.parent / "test-000001.tar").unlink()
    with pytest.raises(UserError, match=r"test-000001\.tar: shard is missing"):
        list(data.test_dataloader())


def test_embeddings_of_other_shards(root, added, tmp_path) -> None:
    """The same folder name, put beside shards that it was not made for."""
    other = tmp_path / "other"
    prepare_shards(EvqaSource(root), ColourScorer(), other, ["test"], k=10, samples_per_shard=4)
    (tar, *_) = added.glob("scorer-*/test-000000.tar")
    shutil.copytree(tar.parent, other / tar.parent.name)
    with pytest.raises(UserError, match="made with scorer colour, not"):
        verify_index(other, "test", PIXELS)
    theirs = json.loads((added / "test.index.json").read_text())["scorers"]
    path = other / "test.index.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "scorers": theirs}))
    with pytest.raises(UserError, match="an added scorer has other samples"):
        load_index(other, "test")


@pytest.mark.parametrize("name", ["../x.tar", "scorer-0/test-000000.tar", "test-000000.tar"])
def test_an_index_names_added_tars_only(added, tmp_path, name) -> None:
    record = json.loads((added / "test.index.json").read_text())
    record["scorers"][0]["shards"][0]["name"] = name
    (tmp_path / "test.index.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is no shard's name"):
        load_index(tmp_path, "test")


def test_an_index_from_before_there_were_any(shards) -> None:
    path = shards / "test.index.json"
    record = json.loads(path.read_text())
    del record["scorers"]
    path.write_text(json.dumps(record))
    assert load_index(shards, "test").scorers == []
