"""Images with several questions: what is written is read, once each, whoever reads it."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from evqa_files import ColourScorer, prepare_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from own_files import make_asked
from PIL import Image

from regionr1.cli.main import main
from regionr1.data.build.label import EXTREME
from regionr1.data.build.stages import AddScorer
from regionr1.data.images import open_image
from regionr1.data.readers.own import OwnSource
from regionr1.data.shards.describe import describe, verify
from regionr1.data.shards.index import ShardIndex, verify_index
from regionr1.data.shards.samples import ShardImage, ShardSample, pack_image
from regionr1.data.shards.stream import ShardStream, read_batches, read_images, read_samples
from regionr1.errors import UserError
from regionr1.scorers.builtin import PixelScorer

DIM = 5


def vectors(n: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@st.composite
def pools(draw: st.DrawFn) -> list[list[int]]:
    """Candidates of every question about one image: one pool for all, or one for each."""
    pool = st.lists(st.integers(0, 8), min_size=1, max_size=6, unique=True)
    n = draw(st.integers(1, 6))
    return [draw(pool)] * n if draw(st.booleans()) else [draw(pool) for _ in range(n)]


def asked_about(image: Image.Image, pools: list[list[int]]) -> list[ShardSample]:
    table = vectors(9, 0)
    return [
        ShardSample(
            key=f"q{n}", image=image, question=f"What is {n}, é?", gold_ids=[f"e{n}", "e0"],
            cluster=f"e{n}", question_type="own", source="own",
            candidate_ids=[f"e{c // 2}" for c in pool], candidate_images=[f"{c}.png" for c in pool],
            labels=[f"e{c // 2}" in (f"e{n}", "e0") for c in pool], candidates=table[pool],
            full=vectors(1, 1)[0], reference_box_px=(1, 2, 5, 6) if n % 2 else None,
            subset="unseen" if n % 2 else "", data_id=f"#{n}", image_name="pictures/1.png",
        )
        for n, pool in enumerate(pools)
    ]  # fmt: skip


def told(sample: ShardSample) -> dict:
    arrays = ("image", "candidates", "full")
    return {name: getattr(sample, name) for name in ShardSample.__slots__ if name not in arrays}


@given(pools=pools(), dtype=st.sampled_from(["float32", "float16"]))
def test_an_image_comes_back_as_it_was_written(pools, dtype) -> None:
    picture = Image.new("RGB", (8, 9), (10, 200, 30))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    samples = asked_about(picture, pools)
    raw = pack_image(samples, "query.png", buffer.getvalue(), dtype)
    distinct = {candidate for pool in pools for candidate in pool}
    assert len(json.loads(raw["json"])["candidate_ids"]) == len(distinct)
    image = ShardImage.of(raw, "here")
    assert (image.key, len(image)) == ("q0", len(pools))
    back = image.samples()
    assert [told(sample) for sample in back] == [told(sample) for sample in samples]
    for n, (sample, written) in enumerate(zip(back, samples, strict=True)):
        assert sample.image.tobytes() == picture.tobytes()
        for found, true in ((sample.candidates, written.candidates), (sample.full, written.full)):
            assert found.dtype == np.float32
            if dtype == "float32":
                assert np.array_equal(found, true)
            else:
                assert np.allclose(found, true, atol=5e-4)
                assert np.allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
        (alone,) = image.samples([n])
        assert told(alone) == told(sample) and np.array_equal(alone.candidates, sample.candidates)


def build(root: Path, name: str = "shards", **options: object) -> tuple[Path, ShardIndex]:
    out = root.parent / name
    options = {"k": 4, "samples_per_shard": 5, **options}
    return out, prepare_shards(OwnSource(root), ColourScorer(), out, ["test"], **options)[0]


@settings(max_examples=15, deadline=None)
@given(
    asked=st.lists(st.integers(0, 7), min_size=1, max_size=30),
    ranks=st.integers(1, 3),
    consumers=st.integers(1, 4),
    per_shard=st.integers(1, 8),
)
def test_every_question_is_read_once(tmp_path_factory, asked, ranks, consumers, per_shard) -> None:
    root = make_asked(tmp_path_factory.mktemp("any") / "own", {"test": asked})
    out, index = build(root, samples_per_shard=per_shard)
    (again,) = verify(out)
    assert again == index
    assert (index.n_samples, index.n_images) == (len(asked), len(set(asked)))
    # A tar is as full as the next image lets it be, and one image is in one tar.
    most = max(asked.count(n) for n in asked)
    assert all(shard.samples <= max(per_shard, most) for shard in index.shards)
    gathered = [i for n in dict.fromkeys(asked) for i, m in enumerate(asked) if m == n]
    assert [s.data_id for s in read_samples(out, index)] == [f"test.{i}" for i in gathered]
    for endless in (False, True):
        seen: Counter[str] = Counter()
        sizes = []
        for rank in range(ranks):
            for worker in range(consumers):
                stream = ShardStream(out, index, 3, rank, ranks, endless, seed=4)
                consumer = rank * consumers + worker
                keys = [
                    image.record["questions"][n]["key"]
                    for image, questions in stream._undecoded(0, consumer, ranks * consumers)
                    for n in questions
                ]
                sizes.append(len(keys))
                seen.update(keys)
        assert len(seen) == len(asked) and set(seen.values()) == {1}
        assert max(sizes) - min(sizes) <= 1


ASKED = [0, 1, 0, 2, 1, 0, 3, 0, 8, 5, 5, 4, 0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_asked(tmp_path_factory.mktemp("own") / "own", {"test": ASKED})


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_ranks_and_workers_begin_within_an_image(root, workers) -> None:
    out, index = build(root)
    expected = {sample.key: sample for sample in read_samples(out, index)}
    assert [shard.samples for shard in index.shards] == [5, 5, 3]
    seen = []
    for rank in range(2):  # 13 questions: the first rank ends within an image
        for batch in read_batches(ShardStream(out, index, 2, rank, 2), workers, "fork"):
            for n, key in enumerate(batch.keys):
                sample = expected[key]
                assert batch.questions[n] == sample.question
                assert batch.image_names[n] == sample.image_name
                assert np.array_equal(batch.candidates[n].numpy(), sample.candidates)
            seen += batch.keys
    assert sorted(seen) == sorted(expected)


def test_evaluation_decodes_an_image_once_for_its_questions(root, monkeypatch) -> None:
    out, index = build(root)
    decoded: list[str] = []

    def counted(data: bytes, where: str) -> Image.Image:
        decoded.append(where)
        return open_image(data, where)

    monkeypatch.setattr("regionr1.data.shards.samples.open_image", counted)
    found = list(read_samples(out, index))
    assert len(found) == 13 and len(decoded) == len(set(decoded)) == index.n_images == 7
    by_question = (
        image.samples([n])[0]
        for shard in range(len(index.shards))
        for image in read_images(out, index, shard)
        for n in range(len(image))
    )
    for sample, alone in zip(found, by_question, strict=True):
        assert told(sample) == told(alone)
        assert sample.image.tobytes() == alone.image.tobytes()
        assert np.array_equal(sample.candidates, alone.candidates)
        assert np.array_equal(sample.full, alone.full)


def test_questions_in_the_shuffle_buffer_share_the_bytes_of_their_image(root) -> None:
    out, index = build(root)
    stream = ShardStream(out, index, 2, endless=True)
    images = {id(image): image for image, _ in stream._undecoded(0, 0, 1)}
    assert len(images) == index.n_images == 7


def test_imported_pools_differ_by_question(root, tmp_path) -> None:
    results = tmp_path / "results.json"
    pages = {i: [f"e{i % 6}", "e5", "e0"] for i in range(len(ASKED)) if i != 2}
    results.write_text(
        json.dumps({f"test.{i}": {"retrieved_entries": found} for i, found in pages.items()})
    )
    out, index = build(root, "imported", results=results)
    verify(out)
    assert index.skipped == {"no retrieval result for the query": 1}
    for sample in read_samples(out, index):
        line = int(sample.data_id.removeprefix("test."))
        assert set(sample.candidate_ids) == set(pages[line])
        scores = sample.candidates @ sample.full
        assert (np.diff(scores) <= 1e-6).all()
        known = {f"e{n}.png": ColourScorer().embed_images([Image.open(root / f"e{n}.png")])
                 for n in range(6)}  # fmt: skip
        for name, vector in zip(sample.candidate_images, sample.candidates, strict=True):
            assert np.allclose(known[name][0], vector, atol=1e-6)


def test_training_leaves_out_questions_and_not_their_image(tmp_path) -> None:
    root = make_asked(tmp_path / "own", {"train": [0, 0, 1, 1, 2]})
    path = root / "train.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in (0, 2, 3):  # of another shade, which no pool holds
        lines[line]["gold"] = ["e5"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "shards"
    (index,) = prepare_shards(OwnSource(root), ColourScorer(), out, ["train"], k=2)
    verify(out)
    assert (index.n_read, index.n_samples, index.n_images) == (5, 2, 2)
    assert index.skipped == {"no positive in the pool": 3}
    assert sorted(s.data_id for s in read_samples(out, index)) == ["train.1", "train.4"]


def test_halves_rank_as_floats_do(root) -> None:
    whole, index = build(root)
    out, halved = build(root, "halves", shard_dtype="float16")
    verify(out)
    assert (index.dtype, halved.dtype) == ("float32", "float16")
    assert halved.full_first == index.full_first
    for part, n in (("candidates", 7 * 4 * 12), ("full", 7 * 12)):  # and NumPy's headers
        assert index.bytes_by_part[part] - halved.bytes_by_part[part] == 2 * n
    for a, b in zip(read_samples(whole, index), read_samples(out, halved), strict=True):
        assert told(a) == told(b)
        assert np.allclose(a.candidates, b.candidates, atol=5e-4)
        ranked = [np.argsort(-(s.candidates @ s.full), kind="stable").tolist() for s in (a, b)]
        assert ranked[0] == ranked[1]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_scorer_is_added_by_image(root, tmp_path, dtype) -> None:
    out, index = build(root, f"added-{dtype}", shard_dtype=dtype)
    scorer = PixelScorer()
    AddScorer(shards=out, root=root, scorer="pixels").run()
    verify(out)
    seen = verify_index(out, "test", scorer.fingerprint())
    assert [shard.images for shard in seen.embeddings] == [s.images for s in index.shards]
    own, added = read_samples(out, index), read_samples(out, seen)
    for first, sample in zip(own, added, strict=True):
        assert told(first) == told(sample)
        expected = scorer.embed_images([sample.image]).numpy()[0]
        assert np.allclose(sample.full, expected, atol=1e-6 if dtype == "float32" else 5e-4)


def test_the_index_tells_what_takes_the_bytes(root, capsys) -> None:
    out, index = build(root)
    parts = index.bytes_by_part
    assert list(parts) == ["images", "candidates", "full", "questions", "tar"]
    assert sum(parts.values()) == sum(shard.bytes for shard in index.shards)
    assert parts["images"] == sum((root / f"test-{n}.png").stat().st_size for n in set(ASKED))
    assert parts["full"] == 7 * (128 + 12 * 4)  # NumPy's header, and D floats
    (line,) = (line for line in describe([index]).splitlines() if " MB: " in line)
    assert line.startswith("test: 7 query images, embeddings in float32; 0.0 MB: images 0.0, cand")
    assert main(["data", "verify", "--out", str(out)]) == 0
    assert line in capsys.readouterr().out.splitlines()


def test_shards_with_a_sample_per_question_are_refused_and_written_again(tmp_path) -> None:
    root = make_asked(tmp_path / "own", {"test": [0, 0, 1]})
    out, index = build(root)
    path = out / "test.index.json"
    path.write_text(path.read_text().replace('"version": 3', '"version": 2'))
    with pytest.raises(UserError, match=r"of regionr1-shards version 2, .*`regionr1 data shards -"):
        build(root)
    assert build(root, overwrite=True)[1] == index
    verify(out)


def test_an_image_that_policies_refuse_is_counted_by_its_questions(tmp_path) -> None:
    root = make_asked(tmp_path / "own", {"test": [0, 1, 1]})
    Image.new("RGB", (1000, 4)).save(root / "test-1.png")
    _, index = build(root)
    assert index.skipped == {EXTREME: 2} and (index.n_read, index.n_samples) == (3, 1)
