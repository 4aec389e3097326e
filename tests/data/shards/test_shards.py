"""Building shards: contents, counts, and nothing half-written."""

import json
import tarfile

import numpy as np
import pytest
import torch
import webdataset as wds
from evqa_files import ColourScorer, EvqaFiles, make_evqa, prepare_shards, url_of
from safetensors.torch import save_file

from regionr1.cli import data as commands
from regionr1.cli.main import main
from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.shards.describe import describe
from regionr1.data.shards.index import load_index, verify_index
from regionr1.errors import UserError
from regionr1.scorers.builtin import DualEncoder
from regionr1.scorers.load import load_scorer


@pytest.fixture
def files(tmp_path) -> EvqaFiles:
    (tmp_path / "data").mkdir()
    return make_evqa(tmp_path / "data")


def build(files: EvqaFiles, scorer: ColourScorer | None = None, **options):
    files.write()
    options = {"k": 4, "samples_per_shard": 3, **options}
    out = files.root.parent / "shards"
    return out, prepare_shards(EvqaSource(files.root), scorer or ColourScorer(), out, **options)


def leftovers(files: EvqaFiles) -> list[str]:
    return sorted(path.name for path in files.root.parent.iterdir() if path != files.root)


def test_a_plain_webdataset_reader_can_read_them(files) -> None:
    out, (train, val, _) = build(files)
    assert (train.n_read, train.n_samples, train.k, train.dim) == (8, 8, 4, 12)
    assert [shard.samples for shard in train.shards] == [3, 3, 2]
    urls = [str(out / shard.name) for shard in val.shards]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [s["__key__"] for s in samples] == [
        f"val-{r:07d}-{n}" for r, n in ((0, 0), (0, 1), (1, 0), (2, 0), (3, 0))
    ]
    sample = samples[2]
    record = sample["json"]
    assert sample["query.jpg"].size == (48, 40) == (record["width"], record["height"])
    assert sample["candidates.npy"].shape == (4, 12) and sample["full.npy"].shape == (12,)
    scores = sample["candidates.npy"] @ sample["full.npy"]
    assert np.all(np.diff(scores) <= 1e-6)
    (question,) = record["questions"]
    assert question["gold_ids"] == [url_of(1)] and question["candidates"] == [0, 1, 2, 3]
    assert question["labels"] == [int(i == url_of(1)) for i in record["candidate_ids"]]
    assert question["labels"][:2] == [1, 1]
    assert question["reference_box_px"] == [12, 8, 36, 32]
    assert samples[0]["json"]["questions"][0]["reference_box_px"] is None


def test_query_bytes_are_the_published_ones(files) -> None:
    out, _ = build(files)
    with tarfile.open(out / "test-000000.tar") as tar:
        member = tar.extractfile("test-0000001-0.query.jpg")
        assert member is not None
        assert member.read() == files.image_of("test", 1).read_bytes()


def test_counts_add_up(files) -> None:
    files.rows["train"][1]["wikipedia_url"] = "https://en.wikipedia.org/wiki/Absent"
    files.rows["test"][1]["wikipedia_url"] = "https://en.wikipedia.org/wiki/Absent"
    files.rows["train"][2]["wikipedia_url"] = url_of(0)  # in the KB, but far away in colour
    files.rows["test"][2]["question_type"] = "2_hop"
    _, (train, val, test) = build(files, k=2)
    for index in (train, val, test):
        assert index.n_read == index.n_samples + sum(index.skipped.values())
    gone, far = "gold page is not in the knowledge base", "no positive in the pool"
    assert train.skipped == train.misses == {gone: 1, far: 1}
    assert train.n_samples == train.n_with_positive == 6
    assert train.pool_recall == 6 / 8
    assert test.skipped == {"2_hop question": 1} and test.misses == {gone: 1}
    assert (test.n_read, test.n_samples, test.n_with_positive) == (6, 5, 4)
    assert test.pool_recall == 4 / 5 and test.full_cond_recall_at_1 == 1.0
    text = describe([train, val, test])
    assert "train: 1 left out: no positive in the pool" in text
    assert "test: 1 kept and counted as misses: gold page" in text
    assert "5 x KB image without a file" in text


def test_same_input_is_kept_and_builds_are_reproducible(files) -> None:
    out, first = build(files)
    scorer = ColourScorer()
    _, again = build(files, scorer)
    assert scorer.calls == 0 and again == first
    (out / "val-000001.tar").write_bytes(b"damaged")
    _, repaired = build(files)
    assert [s.sha256 for i in repaired for s in i.shards] == [
        s.sha256 for i in first for s in i.shards
    ]
    commands.verify(out)


def test_other_input_needs_overwrite(files) -> None:
    out, _ = build(files)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UserError, match="holds train shards built from other files, another sc"):
        build(files, ColourScorer("other"))
    with pytest.raises(UserError, match="allow overwriting"):
        build(files, k=3)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    _, indices = build(files, ColourScorer("other"), overwrite=True, samples_per_shard=100)
    assert {index.scorer_fingerprint for index in indices} == {"other"}
    assert sorted(path.name for path in out.glob("*.tar")) == [
        f"{split}-000000.tar" for split in ("test", "train", "val")
    ]


def test_changed_question_is_other_input(files) -> None:
    build(files)
    files.rows["val"][0]["question"] = "Something else?"
    with pytest.raises(UserError, match="holds val shards"):
        build(files)


@pytest.mark.parametrize("damage", [b"", b"no image", None])
def test_bad_query_image(files, damage) -> None:
    files.write()
    path = files.image_of("val", 2)
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(UserError, match=path.name):
        build(files)
    # What was embedded before it was met is gone on with.
    assert leftovers(files) == ([] if damage is None else [".shards.work"])
    _, (_, val, _) = build(files, skip_missing=True)
    assert leftovers(files) == ["shards"]
    reason = "missing query image" if damage is None else "unreadable query image"
    assert val.skipped == {reason: 1} and val.n_samples == 4


def test_no_positive_in_any_pool(files) -> None:
    for row in files.rows["train"]:
        row["wikipedia_url"] = "https://en.wikipedia.org/wiki/Absent"
    scorer = ColourScorer()
    with pytest.raises(UserError, match="none of the 1 entities that the train questions ask for"):
        build(files, scorer)
    assert leftovers(files) == [] and scorer.calls == 0
    for n, row in enumerate(files.rows["train"]):  # in the KB, but far away in colour
        row["wikipedia_url"] = url_of(n + 2) if n < 3 else url_of((n + 2) % 5)
    with pytest.raises(UserError, match="no pool of split 'train' holds a positive .of 8 pools"):
        build(files, k=1)


def test_a_failing_later_split_leaves_old_shards_alone(files) -> None:
    out, _ = build(files)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    files.image_of("test", 1).write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be decoded"):
        build(files, ColourScorer("other"), overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert leftovers(files) == [".shards.work", "shards"]


def test_out_that_cannot_be_a_folder(files) -> None:
    (files.root.parent / "shards").write_text("a file")
    with pytest.raises(UserError, match="shards: is no folder; name another"):
        build(files)
    assert leftovers(files) == ["shards"]


def test_verify_finds_every_damage(files) -> None:
    out, _ = build(files)
    tar = out / "val-000000.tar"
    whole = tar.read_bytes()
    with pytest.raises(UserError, match="made with scorer colour, not abc"):
        verify_index(out, "val", expect_fingerprint="abc")
    assert verify_index(out, "val", expect_fingerprint="colour", checksums=True).k == 4
    tar.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"val-000000\.tar: shard has .* truncated"):
        verify_index(out, "val")
    tar.write_bytes(whole[:-1] + b"\x01")
    verify_index(out, "val")
    with pytest.raises(UserError, match=r"val-000000\.tar: shard content was altered"):
        verify_index(out, "val", checksums=True)
    tar.unlink()
    with pytest.raises(UserError, match=r"val-000000\.tar: shard is missing"):
        verify_index(out, "val")


def test_damaged_index(files) -> None:
    out, _ = build(files)
    path = out / "val.index.json"
    record = json.loads(path.read_text())
    for version in (2, 99):
        path.write_text(json.dumps({**record, "version": version}))
        refusal = rf"version {version}, not of .* version 3; write .* `regionr1 data shards --overw"
        with pytest.raises(UserError, match=refusal):
            load_index(out, "val")
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="damaged index"):
        load_index(out, "val")
    path.write_text("[]")
    with pytest.raises(UserError, match="damaged index"):
        load_index(out, "val")
    path.unlink()
    with pytest.raises(UserError, match="no complete val shards"):
        load_index(out, "val")
    with pytest.raises(UserError, match="no shard index in this folder"):
        commands.verify(files.root)


def test_command_prints_the_premise(files, capsys) -> None:
    torch.manual_seed(0)
    weights = files.root.parent / "scorer.safetensors"
    save_file(DualEncoder().state_dict(), weights)
    out = files.root.parent / "out"
    options = ["--root", files.write(), "--out", out, "--scorer", weights, "--k", 8]
    options += ["--splits", "[train,test]", "--accelerator", "cpu"]
    assert main(["data", "shards", *map(str, options)]) == 0
    printed = capsys.readouterr().out
    assert "D=128, K=8 candidate images; knowledge base 5 entities, 10 images" in printed
    assert "pool recall" in printed and "test " in printed and "val " not in printed
    commands.verify(out)
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(printed.splitlines())
    assert load_index(out, "test").scorer_fingerprint == load_scorer(str(weights)).fingerprint()
