"""Shards from elsewhere: bytes, index and hashes may fit, and a sample be wrong nonetheless."""

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evqa_files import ColourScorer, make_evqa, prepare_shards, url_of
from PIL import Image

from regionr1.cli.main import main
from regionr1.data.npy import from_npy, to_npy
from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.shards.describe import verify
from regionr1.data.shards.index import ShardFile, load_index
from regionr1.data.shards.stream import read_images, read_samples
from regionr1.data.shards.tar import read_samples_of_tar
from regionr1.data.shards.writer import write_tar
from regionr1.errors import UserError
from regionr1.files import file_sha256

Raw = dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("evqa")
    files = make_evqa(root)
    rows = files.rows["test"]
    for row in (1, 4):  # 2, 3 and 1 questions about the first three images
        rows.append({**rows[row], "dataset_image_ids": rows[0]["dataset_image_ids"].split("|")[1],
                     "dataset_name": rows[0]["dataset_name"]})  # fmt: skip
    files.write()
    prepare_shards(EvqaSource(root), ColourScorer(), root / "shards", k=4, samples_per_shard=5)
    return root / "shards"


@pytest.fixture
def shards(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "shards")
    return tmp_path / "shards"


def consistent(shards: Path, split: str, tar: Path, samples: int, images: int) -> None:
    """Makes the index say what the tar is, as whoever offers shards can."""
    index = load_index(shards, split)
    number = next(n for n, shard in enumerate(index.shards) if shard.name == tar.name)
    index.shards[number] = ShardFile(
        tar.name, samples, images, file_sha256(tar), tar.stat().st_size
    )
    index.save(shards)


def rewritten(shards: Path, change: Callable[[list[Raw]], object]) -> Path:
    """Changes the samples of the first test shard, and its index with it."""
    index = load_index(shards, "test")
    samples = [image.files for image in read_images(shards, index, 0)]
    change(samples)
    tar = shards / index.shards[0].name
    write_tar(tar, samples)
    consistent(shards, "test", tar, index.shards[0].samples, len(samples))
    return tar


def array(name: str, change: Callable[[np.ndarray], object]) -> Callable[[list[Raw]], object]:
    def changed(samples: list[Raw]) -> None:
        values = from_npy(samples[1][name])
        found = change(values)
        samples[1][name] = to_npy(values if found is None else found)

    return changed


def record(**values: object) -> Callable[[list[Raw]], object]:
    """Changes what the second image says of itself."""

    def changed(samples: list[Raw]) -> None:
        known = json.loads(samples[1]["json"])
        samples[1]["json"] = json.dumps({**known, **values}).encode()

    return changed


def question(**values: object) -> Callable[[list[Raw]], object]:
    """Changes what the second question about the second image says of itself."""

    def changed(samples: list[Raw]) -> None:
        questions = json.loads(samples[1]["json"])["questions"]
        questions[1] |= values
        record(questions=questions)(samples)

    return changed


def one_key_twice(samples: list[Raw]) -> None:
    """One key in two places, with another between: no two neighbours are of one key."""
    known = json.loads(samples[2]["json"])
    known["questions"][0]["key"] = samples[2]["__key__"] = samples[0]["__key__"]
    samples[2]["json"] = json.dumps(known).encode()


def thin(samples: list[Raw]) -> None:
    """As shards hold whose builder did not know what policies refuse."""
    picture = io.BytesIO()
    Image.new("RGB", (1000, 4)).save(picture, "JPEG")
    known = json.loads(samples[1]["json"])
    samples[1]["json"] = json.dumps({**known, "width": 1000, "height": 4}).encode()
    samples[1]["query.jpg"] = picture.getvalue()


def put(row: int, value: float) -> Callable[[np.ndarray], object]:
    return lambda values: values.__setitem__((row, 3), value)


FAULTS: dict[str, tuple[Callable[[list[Raw]], object], str]] = {
    "nan": (array("candidates.npy", put(1, float("nan"))), "not of length 1"),
    "infinite": (array("candidates.npy", put(2, float("inf"))), "not of length 1"),
    "zero": (array("full.npy", lambda v: v * 0), "not of length 1"),
    "unnormalised": (array("candidates.npy", lambda v: v * 1.5), "not of length 1"),
    "double": (array("full.npy", lambda v: v.astype(np.float64)), "embeddings"),
    "fewer candidates": (array("candidates.npy", lambda v: v[:-1]), "embeddings"),
    "other dimension": (array("full.npy", lambda v: np.eye(7, dtype=np.float32)[0]), "embeddings"),
    "objects": (lambda s: s[1].update({"full.npy": b"\x93NUMPY\x01\x00\x02\x00{}"}), "cannot be"),
    "two kinds": (array("full.npy", lambda v: v.astype(np.float16)), "embeddings are .*float16"),
    "labels": (question(labels=[1, 1, 1, 1]), "labels contradict its gold"),
    "gold": (question(gold_ids=[url_of(n) for n in range(5)]), "labels contradict its gold"),
    "no gold": (question(gold_ids=[]), "no gold entity"),
    "no candidate": (question(candidates=[], labels=[]), "there is no candidate"),
    "no such row": (question(candidates=[0, 1, 2, 4]), "no row of its table"),
    "row before the first": (question(candidates=[0, 1, 2, -1]), "no row of its table"),
    "row of text": (question(candidates=[0, 1, 2, "3"]), "no row of its table"),
    "box outside": (question(reference_box_px=[4, 4, 90, 30]), r"box_px .* image of 48x40"),
    "unit box": (question(reference_box_px=[0.1, 0.1, 0.5, 0.7]), "in pixels of its upright image"),
    "box of nan": (question(reference_box_px=[float("nan"), 1, 5, 6]), "box_px"),
    "box of text": (question(reference_box_px="here"), "must be 4 numbers"),
    "size": (record(width=49), "image is of another size"),
    "aspect": (thin, "1000x4, a ratio that policies refuse"),
    "image name": (record(image=None), "image is no text"),
    "candidate ids": (record(candidate_ids=["a"]), "1 candidate_ids have embeddings"),
    "question": (question(question=3), "question is no text"),
    "key with a slash": (question(key="../x"), "has a dot or a slash"),
    "another key": (lambda s: s[1].update(__key__="test-9"), "is not that of its first question"),
    "no questions": (record(questions=[]), "no list of questions"),
    "questions of text": (record(questions="why?"), "no list of questions"),
    "half a character": (question(question="\ud800"), "surrogates not allowed"),
    "deep": (
        lambda s: s[1].update(json=b'{"questions":' + b"[" * 99_999 + b"]" * 99_999 + b"}"),
        "nested too deeply",
    ),
    "no image": (lambda s: s[1].pop("query.jpg"), "part 'query.png' is missing"),
    "key twice": (one_key_twice, "occurs twice"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_verify_finds_it_where_all_hashes_fit(shards, capsys, name) -> None:
    change, message = FAULTS[name]
    rewritten(shards, change)
    verify(shards, content=False)  # the bytes are what the index says
    with pytest.raises(UserError, match=message):
        verify(shards)
    assert main(["data", "verify", "--out", str(shards)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "test-000000.tar, sample test-" in said and len(said) < 400


@pytest.mark.parametrize("name", sorted({*FAULTS} - {"key twice"}))
def test_the_stream_finds_it_at_the_sample(shards, name) -> None:
    change, message = FAULTS[name]
    rewritten(shards, change)
    with pytest.raises(UserError, match=message):
        list(read_samples(shards, load_index(shards, "test")))


@pytest.mark.parametrize("name", ["n_with_positive", "full_first", "n_samples", "dim", "k"])
def test_verify_counts_again(shards, name) -> None:
    path = shards / "test.index.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, name: known[name] - 1}))
    with pytest.raises(UserError, match=rf"{name}|numbers where its index says"):
        verify(shards)


@pytest.mark.parametrize("part", ["images", "candidates", "full", "questions", "tar", "more"])
def test_verify_counts_the_bytes_again(shards, part) -> None:
    path = shards / "test.index.json"
    known = json.loads(path.read_text())
    said = known["bytes_by_part"].get(part, 0)
    known["bytes_by_part"][part] = said + 1000
    path.write_text(json.dumps(known))
    verify(shards, content=False)
    message = f"the index of test says bytes_by_part {part} {said + 1000:,} where the shards have "
    with pytest.raises(UserError, match=f"{message}{said:,}; build the shards again"):
        verify(shards)
    del known["bytes_by_part"][part]
    path.write_text(json.dumps(known))
    if said:
        with pytest.raises(UserError, match=f"bytes_by_part {part} 0 where the shards have"):
            verify(shards)
    else:
        verify(shards)


@pytest.mark.parametrize("told", [{"images": "9"}, {"images": 9.5}, [9], None])
def test_sizes_that_are_no_numbers_are_refused(shards, told) -> None:
    path = shards / "test.index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bytes_by_part": told}))
    with pytest.raises(UserError, match=r"test\.index\.json: damaged index .*; build the sh"):
        verify(shards)


def test_whole_shards_pass(shards) -> None:
    assert [index.split for index in verify(shards)] == ["test", "train", "val"]


def archive(shards: Path, pack: Callable[[Path, bytes], object]) -> Path:
    tar = shards / "test-000000.tar"
    pack(tar, tar.read_bytes())
    consistent(shards, "test", tar, 5, 3)
    return tar


def with_member(kind: bytes, name: str, size: int) -> Callable[[Path, bytes], object]:
    def pack(tar: Path, whole: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.size, member.linkname = kind, size, "/etc/passwd"
        tar.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + whole)

    return pack


def sparse_by_pax(tar: Path, whole: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        member = tarfile.TarInfo("test-1.json")
        member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "99999999999"}
        out.addfile(member)
    tar.write_bytes(buffer.getvalue()[:1536] + whole)


ARCHIVES: dict[str, Callable[[Path, bytes], object]] = {
    "compressed": lambda tar, whole: tar.write_bytes(gzip.compress(whole)),
    "sparse": with_member(tarfile.GNUTYPE_SPARSE, "test-1.json", 0),
    "sparse by extended header": sparse_by_pax,
    "link": with_member(tarfile.SYMTYPE, "test-1.json", 0),
    "device": with_member(tarfile.CHRTYPE, "test-1.json", 0),
    "enormous": with_member(tarfile.REGTYPE, "test-1.json", 1 << 40),
    "enormous name": with_member(tarfile.GNUTYPE_LONGNAME, "test-1.json", 1 << 40),
    "negative": with_member(tarfile.REGTYPE, "test-1.json", -512),
    "other files": with_member(tarfile.REGTYPE, "test-1.exe", 0),
    "in a folder": with_member(tarfile.REGTYPE, "a/test-1.json", 0),
    "no archive": lambda tar, whole: tar.write_bytes(b"x" * len(whole)),
    "cut short": lambda tar, whole: tar.write_bytes(whole[:3000]),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_only_plain_tars_of_bounded_members_are_read(shards, name) -> None:
    archive(shards, ARCHIVES[name])
    verify(shards, content=False)
    with pytest.raises(UserError, match=r"test-000000\.tar: shard is corrupt after . samples"):
        verify(shards)
    with pytest.raises(UserError, match=r"test-000000\.tar: shard is corrupt after . samples"):
        list(read_samples(shards, load_index(shards, "test")))


@pytest.mark.parametrize(
    ("samples", "images", "message"),
    [
        (5, 2, "more than its index says"),
        (5, 4, "ends after 3 samples where its index says 4"),
        (4, 3, "has 5 questions where its index says 4"),
        (6, 3, "has 5 questions where its index says 6"),
    ],
)
def test_samples_that_the_index_does_not_count(shards, samples, images, message) -> None:
    tar = rewritten(shards, lambda samples: None)
    consistent(shards, "test", tar, samples, images)
    with pytest.raises(UserError, match=message):
        verify(shards)
    with pytest.raises(UserError, match=message):
        list(read_samples(shards, load_index(shards, "test")))


def test_an_array_is_as_long_as_its_file_says(shards) -> None:
    good = to_npy(np.eye(3, dtype=np.float32))
    claims = good.replace(b"(3, 3)", b"(3, 3000000000)"[:15]).ljust(len(good))
    with pytest.raises(ValueError):
        from_npy(claims)
    assert np.array_equal(from_npy(good), np.eye(3))


def test_long_keys_are_read(tmp_path) -> None:
    key = "train-0000001-" + "k" * 300
    write_tar(tmp_path / "train-000000.tar", [{"__key__": key, "json": b"{}"}])
    with (tmp_path / "train-000000.tar").open("rb") as file:
        assert list(read_samples_of_tar(file, {"json": 9})) == [{"__key__": key, "json": b"{}"}]
