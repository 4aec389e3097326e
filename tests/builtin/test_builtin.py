"""The built-in benchmark: who is drawn by whom, what is asked, and what is written."""

import csv
import filecmp
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionr1.algorithm.answers import Decision
from regionr1.builtin import artwork, questions, scenes
from regionr1.builtin.benchmark import url, write_benchmark
from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.records import SkipReport
from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy

ARTISTS = tuple(
    dict.fromkeys((*artwork.KB_ARTISTS, *artwork.QUERY_ARTISTS, *artwork.PRACTICE_ARTISTS))
)


def files_of(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


def rows_of(root: Path, split: str) -> list[dict[str, str]]:
    with (root / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


# ---- artwork ------------------------------------------------------------------------------------


def test_there_are_enough_entities_of_three_artists_in_enough_categories() -> None:
    things = artwork.things()
    three = [t for t in things if sum(t.name in artwork.drawings(a) for a in ARTISTS) >= 3]
    assert len(three) >= 200 and len({thing.category for thing in three}) >= 8
    assert len({thing.name for thing in things}) == len(things)
    assert len({url(thing) for thing in things}) == len(things)
    assert min(Counter(thing.category for thing in things).values()) >= 10
    assert {thing.category for thing in things} == set(questions.NOUNS)


def test_every_entity_is_drawn_for_queries_and_for_the_knowledge_base() -> None:
    for thing in artwork.things():
        for side in (artwork.KB_ARTISTS, artwork.QUERY_ARTISTS):
            assert any(thing.name in artwork.drawings(artist) for artist in side), thing.name


def test_no_artist_plays_two_parts() -> None:
    assert not set(artwork.QUERY_ARTISTS) & set(artwork.KB_ARTISTS)
    assert artwork.UNSEEN_ARTIST in artwork.KB_ARTISTS
    assert artwork.UNSEEN_ARTIST not in artwork.PRACTICE_ARTISTS


def test_drawings_of_different_artists_are_different_pictures() -> None:
    seen: dict[bytes, tuple[str, str]] = {}
    for artist in ARTISTS:
        for name, drawing in artwork.drawings(artist).items():
            pixels = drawing.convert("RGBA").tobytes() + repr(drawing.size).encode()
            assert pixels not in seen, f"{artist} {name} is {seen.get(pixels)}"
            seen[pixels] = (artist, name)
            assert drawing.mode == "RGBA" and drawing.getextrema()[3][1] == 255


def test_splits_are_disjoint_and_every_category_is_in_each() -> None:
    by_split = {s: {t.name for t in artwork.things() if t.split == s} for s in artwork.SPLITS}
    assert sum(map(len, by_split.values())) == len(set().union(*by_split.values()))
    assert len(by_split["train"]) > len(by_split["test"]) > len(by_split["val"]) > 0
    for split in artwork.SPLITS:
        assert {t.category for t in artwork.things() if t.split == split} == set(questions.NOUNS)


# ---- questions ----------------------------------------------------------------------------------


def test_a_question_depends_on_the_category_alone_so_it_cannot_name_the_entity() -> None:
    asked: dict[str, set[str]] = {}
    for thing in artwork.things():
        rng = np.random.default_rng(3)
        asked.setdefault(thing.category, set()).add(questions.ask(rng, thing)[0])
    assert {len(texts) for texts in asked.values()} == {1}


def test_questions_share_no_word_with_a_name_but_the_category() -> None:
    everything = set(questions.all_questions())
    for thing in artwork.things():
        nouns = words(" ".join(questions.NOUNS[thing.category]))
        rng = np.random.default_rng(0)
        for _ in range(20):
            question, answer = questions.ask(rng, thing)
            assert question in everything and answer in questions.facts(thing).values()
            assert not (words(question) & words(thing.title)) - nouns - {"of", "in", "the", "and"}


# ---- scenes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(scenes.KIND_SHARES))
def test_every_thing_of_a_scene_lies_inside_it(kind) -> None:
    names = sorted(artwork.drawings("noto"))
    for seed in range(12):
        rng = np.random.default_rng(seed)
        cast = [(str(name), "noto") for name in rng.permutation(names)[:5]]
        width, height = 96 + 16 * (seed % 3), 96
        scene = scenes.compose(rng, cast[0], cast[1:], (width, height), kind)
        assert scene.image.size == (width, height) and scene.image.mode == "RGB"
        assert scene.placed[0].name == cast[0][0]
        for placed in scene.placed:
            x1, y1, x2, y2 = placed.box_px
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        if kind in ("lone", "group"):
            assert len(scene.placed) == 1


# ---- what is written ----------------------------------------------------------------------------


def test_the_reader_of_evqa_reads_it_back(builtin_benchmark) -> None:
    source = EvqaSource(builtin_benchmark)
    entities = {entity.id: entity for entity in source.entities()}
    assert set(entities) == {url(thing) for thing in artwork.things()}
    assert all(entity.image_paths and not entity.n_unresolved for entity in entities.values())
    for split, count in (("train", 24), ("val", 8), ("test", 10)):
        skipped = SkipReport()
        queries = source.queries(split, skipped)
        assert len(queries) == count and skipped.total == 0
        for query, row in zip(queries, rows_of(builtin_benchmark, split), strict=True):
            assert query.question == row["question"] and query.gold_ids == (row["wikipedia_url"],)
            assert query.cluster in entities


def test_queries_are_about_entities_of_their_split(builtin_benchmark) -> None:
    split_of = {url(thing): thing.split for thing in artwork.things()}
    for split in artwork.SPLITS:
        for row in rows_of(builtin_benchmark, split):
            assert split_of[row["wikipedia_url"]] == split
            assert row["wikipedia_url_used_in_train"] == str(split == "train")


def test_the_answer_is_on_the_page(builtin_benchmark) -> None:
    pages = json.loads((builtin_benchmark / "encyclopedic_kb_wiki.json").read_text())
    for row in rows_of(builtin_benchmark, "test"):
        assert row["answer"] in " ".join(pages[row["wikipedia_url"]]["section_texts"])


def test_the_knowledge_base_is_drawn_by_its_own_artists(builtin_benchmark) -> None:
    mapping = json.loads((builtin_benchmark / "url_to_path_mapping.json").read_text())
    assert {path.split("/")[1] for path in mapping.values()} == set(artwork.KB_ARTISTS)


def test_reference_boxes_lie_in_their_images(builtin_benchmark) -> None:
    n = 0
    for split in artwork.SPLITS:
        for query in EvqaSource(builtin_benchmark).queries(split, SkipReport()):
            width, height = Image.open(query.image_path).size
            x1, y1, x2, y2 = query.reference_box_px
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
            n += 1
    assert n == len((builtin_benchmark / "reference_boxes.jsonl").read_text().splitlines()) == 42


def test_the_same_seed_gives_the_same_bytes(builtin_benchmark, tmp_path) -> None:
    write_benchmark(tmp_path / "again", train=24, val=8, test=10)
    names = files_of(builtin_benchmark)
    assert files_of(tmp_path / "again") == names
    _, differ, errors = filecmp.cmpfiles(builtin_benchmark, tmp_path / "again", names, False)
    assert differ == errors == []
    write_benchmark(tmp_path / "other", train=24, val=8, test=10, seed=1)
    assert files_of(tmp_path / "other") != names


def test_more_queries_begin_with_the_same_ones(builtin_benchmark, tmp_path) -> None:
    write_benchmark(tmp_path / "more", train=1, val=1, test=12)
    assert rows_of(tmp_path / "more", "test")[:10] == rows_of(builtin_benchmark, "test")


def test_writing_again_keeps_what_is_there_and_other_options_are_refused(
    builtin_benchmark, tmp_path, capsys
) -> None:
    out = tmp_path / "raw"
    shutil.copytree(builtin_benchmark, out)
    before = {path: (out / path).stat().st_mtime_ns for path in files_of(out)}
    write_benchmark(out, train=24, val=8, test=10)
    assert "already holds this benchmark" in capsys.readouterr().out
    for other in ({"train": 25}, {"seed": 1}):
        with pytest.raises(UserError, match="holds something else: choose another folder"):
            write_benchmark(out, **({"train": 24, "val": 8, "test": 10} | other))
    assert {path: (out / path).stat().st_mtime_ns for path in files_of(out)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_an_empty_folder_is_filled_and_a_foreign_one_left_alone(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    write_benchmark(tmp_path / "empty", train=1, val=1, test=1)
    assert (tmp_path / "empty" / "benchmark.json").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "benchmark.json").write_text("not json")
    with pytest.raises(UserError, match="holds something else"):
        write_benchmark(tmp_path / "mine", train=1, val=1, test=1)
    assert files_of(tmp_path / "mine") == [Path("benchmark.json")]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"train": 0}, "at least one query"), ({"seed": -1}, "at least 0"), ({}, "cannot be written")],
)
def test_bad_options_write_nothing(tmp_path, options, words) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=words):
        write_benchmark(tmp_path / "file" / "out", **{"train": 1, "val": 1, "test": 1, **options})
    with pytest.raises(UserError):
        write_benchmark(tmp_path / "file", train=1, val=1, test=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_writing_leaves_nothing(tmp_path, monkeypatch) -> None:
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "compose", fail)
    with pytest.raises(KeyboardInterrupt):
        write_benchmark(tmp_path / "out", train=1, val=1, test=1)
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_policy_answers_with_boxes_when_told_to() -> None:
    """Numbers are not one run of token ids; a warm start that thought so answered in letters."""
    policy = CropPolicy(max_new_tokens=12)
    rng = np.random.default_rng(0)
    images = [
        scenes.compose(rng, (thing.name, "noto"), [], (256, 256), "lone").image
        for thing in artwork.things()[:6]
    ]
    questions_asked = [questions.ask(rng, thing)[0] for thing in artwork.things()[:6]]
    rollouts = policy.greedy(images, questions_asked, force_region=True)
    assert (rollouts.decision == Decision.REGION).all(), rollouts.texts
