"""The built-in benchmark: who is drawn by whom, what is asked, and what is written."""

import csv
import filecmp
import json
import re
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image

from regionr1.algorithm.answers import Decision
from regionr1.builtin import artwork, kinds, landscapes, museum, questions
from regionr1.builtin.benchmark import kb_images, url, write_benchmark
from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.records import SkipReport
from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy

ARTISTS = tuple(
    dict.fromkeys((*artwork.KB_ARTISTS, *artwork.PRACTICE_ARTISTS, artwork.UNSEEN_ARTIST))
)


def files_of(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


def rows_of(root: Path, split: str) -> list[dict[str, str]]:
    with (root / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


# ---- artwork ------------------------------------------------------------------------------------


def test_there_are_enough_things_of_three_artists_in_enough_categories() -> None:
    things = artwork.things()
    three = [t for t in things if sum(t.name in artwork.drawings(a) for a in ARTISTS) >= 3]
    assert len(three) >= 80 and len({thing.category for thing in three}) >= 8
    assert min(Counter(thing.category for thing in things).values()) >= 6
    assert {thing.category for thing in things} == set(questions.NOUNS) - {"place"}


def test_nothing_of_the_benchmark_was_seen_in_practice() -> None:
    practised = {thing.name for thing in artwork.practice_things()}
    assert len(practised) > 150 and not practised & {thing.name for thing in artwork.things()}
    elsewhere = json.loads((ROOT / "scripts" / "scorer_extra.json").read_text())["extra"]
    extra = {name for names in elsewhere.values() for name in names}
    assert len(extra) > 400 and not extra & {thing.name for thing in artwork.things()}
    asked = {place for split in artwork.SPLITS for place in landscapes.places(split)}
    homes = {museum.home(thing) for thing in artwork.things()}
    assert not set(landscapes.practice_places()) & (asked | homes) and not asked & homes


def test_every_thing_is_drawn_for_queries_and_for_the_knowledge_base() -> None:
    for thing in artwork.things():
        assert thing.name in artwork.drawings(artwork.QUERY_ARTIST)
        assert any(thing.name in artwork.drawings(artist) for artist in artwork.KB_ARTISTS)


def test_no_artist_and_no_style_plays_two_parts() -> None:
    for query, unseen, kb, practice in (
        (artwork.QUERY_ARTIST, artwork.UNSEEN_ARTIST, artwork.KB_ARTISTS, artwork.PRACTICE_ARTISTS),
        (
            *(landscapes.QUERY_STYLE, landscapes.UNSEEN_STYLE),
            *(landscapes.KB_STYLES, landscapes.PRACTICE_STYLES),
        ),
    ):
        assert query not in kb and unseen not in (query, *kb, *practice)


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
    for split in artwork.SPLITS:
        by_split[split] |= {place.name for place in landscapes.places(split)}
        assert {t.category for t in artwork.things() if t.split == split} == set(
            questions.NOUNS
        ) - {"place"}
    entities = museum.entities()
    assert sum(map(len, by_split.values())) == len(set().union(*by_split.values())) == len(entities)
    assert len(by_split["train"]) > len(by_split["val"]) < len(by_split["test"])
    assert len({entity.name for entity in entities}) == len({url(e) for e in entities}) == 140


# ---- landscapes ---------------------------------------------------------------------------------


def test_places_of_one_layer_share_at_most_one_part() -> None:
    for chosen in (
        [place for split in artwork.SPLITS for place in landscapes.places(split)],
        landscapes.homes(),
    ):
        for one, other in combinations(chosen, 2):
            same = (one.sky == other.sky, one.ground == other.ground, one.mass == other.mass)
            assert sum(same) <= 1, (one, other)


def test_a_place_looks_like_itself_in_every_view_and_style() -> None:
    """By the mean colours of nine parts alone, most views are most like a view of their place."""
    places = landscapes.places("test")[:8]

    def look(place, style, seed) -> np.ndarray:
        image = landscapes.draw(np.random.default_rng(seed), place, style, (60, 48))
        assert image.size == (60, 48) and image.mode == "RGB"
        both = [np.asarray(image, float), np.asarray(image, float)[:, ::-1]]
        small = [x.reshape(3, 16, 3, 20, 3).mean((1, 3)) for x in both]
        colours = np.mean(small, axis=0).ravel()  # whichever side is left
        return (colours - colours.mean()) / colours.std()

    for style in landscapes.STYLES:
        kept = [look(place, "flat", 1) for place in places]
        nearest = [
            int(np.argmin([np.linalg.norm(look(place, style, 2) - other) for other in kept]))
            for place in places
        ]
        assert sum(found == n for n, found in enumerate(nearest)) >= 6, (style, nearest)


def test_the_same_seed_draws_the_same_landscape() -> None:
    place = landscapes.places("val")[0]
    views = [
        landscapes.draw(np.random.default_rng(seed), place, "sketched", (64, 64)).tobytes()
        for seed in (3, 3, 4)
    ]
    assert views[0] == views[1] != views[2]


# ---- questions ----------------------------------------------------------------------------------


def test_a_question_depends_on_the_category_alone_so_it_cannot_name_the_entity() -> None:
    asked: dict[str, set[str]] = {}
    for thing in museum.entities():
        rng = np.random.default_rng(3)
        asked.setdefault(thing.category, set()).add(questions.ask(rng, thing)[0])
    assert {len(texts) for texts in asked.values()} == {1}


def test_questions_share_no_word_with_a_name_but_the_category() -> None:
    everything = set(questions.all_questions())
    for thing in museum.entities():
        nouns = words(" ".join(questions.NOUNS[thing.category]))
        rng = np.random.default_rng(0)
        for _ in range(20):
            question, answer = questions.ask(rng, thing)
            assert question in everything and answer in questions.facts(thing).values()
            assert not (words(question) & words(thing.title)) - nouns - {"of", "in", "the", "and"}


# ---- scenes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_everything_of_a_scene_lies_inside_it(kind) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        target, cast, _ = museum.cast_of(rng, "train", kind)
        width, height = 160 + 32 * (seed % 3), 160
        scene = kinds.compose(rng, kind, cast, (width, height))
        assert scene.image.size == (width, height) and scene.image.mode == "RGB"
        for x1, y1, x2, y2 in (scene.target, *(box for _, box in scene.rivals)):
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        whole = scene.reference == (0, 0, width, height)
        assert whole == (kind not in kinds.WANTS_CROP)
        assert (scene.target == (0, 0, width, height)) == (kind == "place_wide")
        assert (target.category == "place") == kind.startswith("place")


def test_what_stands_out_is_of_another_category_and_salient() -> None:
    of = {thing.name: thing for thing in artwork.things()}
    for seed in range(30):
        for kind in ("thing_clear", "thing_home"):
            target, cast, _ = museum.cast_of(np.random.default_rng(seed), "test", kind)
            assert cast.rivals[0] in artwork.salient()
            for name in cast.rivals:
                assert of[name].category != target.category and of[name].split == "test"
            assert cast.place == museum.home(target) != cast.foreign


def test_only_test_queries_are_drawn_in_the_unseen_style() -> None:
    styles = {
        split: {
            (cast.artist, cast.style, unseen)
            for seed in range(40)
            for _, cast, unseen in [
                museum.cast_of(np.random.default_rng(seed), split, "place_wide")
            ]
        }
        for split in artwork.SPLITS
    }
    usual = (artwork.QUERY_ARTIST, landscapes.QUERY_STYLE, False)
    assert styles["train"] == styles["val"] == {usual}
    assert styles["test"] == {usual, (artwork.UNSEEN_ARTIST, landscapes.UNSEEN_STYLE, True)}


# ---- what is written ----------------------------------------------------------------------------


def test_the_reader_of_evqa_reads_it_back(builtin_benchmark) -> None:
    source = EvqaSource(builtin_benchmark)
    entities = {entity.id: entity for entity in source.entities(SkipReport())}
    assert set(entities) == {url(entity) for entity in museum.entities()}
    assert all(entity.image_paths and not entity.n_unresolved for entity in entities.values())
    for split, count in (("train", 24), ("val", 8), ("test", 10)):
        skipped = SkipReport()
        queries = source.queries(split, skipped)
        assert len(queries) == count and skipped.total == 0
        for query, row in zip(queries, rows_of(builtin_benchmark, split), strict=True):
            assert query.question == row["question"] and query.gold_ids == (row["wikipedia_url"],)
            assert query.cluster in entities and query.subset == row["subset"]
            assert query.subset.split(",")[0] in kinds.KINDS


def test_queries_are_about_entities_of_their_split(builtin_benchmark) -> None:
    split_of = {url(thing): thing.split for thing in artwork.things()}
    split_of |= {url(place): s for s in artwork.SPLITS for place in landscapes.places(s)}
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
    makers = {path.split("/")[1] for path in mapping.values()}
    assert makers == {
        *artwork.KB_ARTISTS,
        *landscapes.KB_STYLES,
        *(f"home-{style}" for style in landscapes.KB_STYLES),
    }


def test_a_thing_is_shown_at_home_and_a_place_in_every_style() -> None:
    rng = np.random.default_rng(0)
    thing, place = artwork.things()[0], landscapes.places("train")[0]
    assert [maker for maker, _ in kb_images(rng, place)] == list(landscapes.KB_STYLES)
    pictures = dict(kb_images(rng, thing))
    assert {"home-flat", "home-painted", *artwork.KB_ARTISTS} == set(pictures)


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

    monkeypatch.setattr(kinds, "compose", fail)
    with pytest.raises(KeyboardInterrupt):
        write_benchmark(tmp_path / "out", train=1, val=1, test=1)
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_policy_answers_with_boxes_when_told_to() -> None:
    """Numbers are not one run of token ids; a warm start that thought so answered in letters."""
    policy = CropPolicy(max_new_tokens=12)
    rng = np.random.default_rng(0)
    images, asked = [], []
    for number in range(8):
        kind = kinds.KINDS[number % len(kinds.KINDS)]
        target, cast, _ = museum.cast_of(rng, "val", kind)
        images.append(kinds.compose(rng, kind, cast, (256, 256)).image)
        asked.append(questions.ask(rng, target)[0])
    rollouts = policy.greedy(images, asked, force_region=True)
    assert (rollouts.decision == Decision.REGION).all(), rollouts.texts
