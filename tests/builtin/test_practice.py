"""What scorer and policy learned from: the scripts that made them draw nothing of the benchmark."""

import json
import sys
import zipfile
from importlib.machinery import SourceFileLoader
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType

import numpy as np
import pytest
from checkout import ROOT

from regionr1.builtin import artwork, kinds, landscapes, museum
from regionr1.scorers.load import load_scorer

SEEDS = range(40)
BENCHMARK_THINGS = {thing.name for thing in artwork.things()}
BENCHMARK_PLACES = {
    *(place for split in artwork.SPLITS for place in landscapes.places(split)),
    *map(museum.home, artwork.things()),
}


@pytest.fixture
def script(monkeypatch):
    """Opens a script as a module; what only renders drawings is not needed for that."""
    monkeypatch.setitem(sys.modules, "resvg_py", ModuleType("resvg_py"))

    def opened(name: str) -> ModuleType:
        loader = SourceFileLoader(name, str(ROOT / "scripts" / name))
        spec = spec_from_loader(name, loader)
        assert spec is not None
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        loader.exec_module(module)
        return module

    return opened


@pytest.fixture
def drawn(monkeypatch) -> set[tuple[landscapes.Place, str]]:
    """Landscapes that are drawn in a test, with their style."""
    found: set[tuple[landscapes.Place, str]] = set()
    draw = landscapes.draw

    def noted(rng, place, style, size):
        found.add((place, style))
        return draw(rng, place, style, size)

    monkeypatch.setattr(landscapes, "draw", noted)
    return found


def check_practice(drawn: set[tuple[landscapes.Place, str]], names: set[str]) -> None:
    places, styles = {place for place, _ in drawn}, {style for _, style in drawn}
    assert places and not places & BENCHMARK_PLACES
    assert styles <= set(landscapes.PRACTICE_STYLES) - {landscapes.UNSEEN_STYLE}
    assert names and not names & BENCHMARK_THINGS


def test_the_scorers_views(script, drawn) -> None:
    train_scorer = script("train_scorer")
    gallery = train_scorer.gallery(None)
    for kind in train_scorer.KINDS:
        views = train_scorer.Drawn(gallery, 6, kind, 0)
        for index in range(6):
            _, shown, _, _ = views[index]
            assert shown.max() < len(gallery) + len(landscapes.practice_places())
    check_practice(drawn, set(gallery))
    assert artwork.UNSEEN_ARTIST not in train_scorer.ARTISTS


def test_the_towers_pictures(script, drawn, monkeypatch) -> None:
    train_vision = script("train_vision")
    monkeypatch.setattr(train_vision, "VARIANTS", 0)
    some = landscapes.practice_places()[::40]
    monkeypatch.setattr(landscapes, "practice_places", lambda: some)
    pictures = train_vision.drawings(None)
    for seed in SEEDS:
        train_vision.ground(np.random.default_rng(seed), 32, 32)
    check_practice(drawn, {picture.name for picture in pictures})


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_the_warm_starts_scenes(script, kind) -> None:
    warm_start = script("warm_start")
    drawn, names, artists = set(), set(), set()
    for seed in SEEDS:
        _, cast, of = warm_start.practice_cast(np.random.default_rng(seed), kind)
        drawn |= {(cast.place, cast.style), (cast.foreign, cast.style)}
        names |= {cast.thing, *cast.rivals, *of} - {None}
        artists.add(cast.artist)
    check_practice(drawn, names)
    assert artists <= set(artwork.PRACTICE_ARTISTS) - {artwork.UNSEEN_ARTIST}


def test_pictures_of_anything_else_are_none_of_an_entity(script, monkeypatch, tmp_path) -> None:
    """Whole packages are rendered for the tower, but what is named like an entity."""
    make_artwork = script("make_artwork")
    named = [f"{name}-light-skin-tone" for name in BENCHMARK_THINGS]
    named += [name.replace("-", "") for name in BENCHMARK_THINGS]
    icons = {"icons": dict.fromkeys(["anything", *BENCHMARK_THINGS, *named], {})}
    monkeypatch.setattr(make_artwork, "package_icons", lambda *_: icons)
    monkeypatch.setattr(make_artwork, "render", lambda *_, **__: b"")
    make_artwork.write_study(tmp_path / "study.zip", tmp_path)
    written = zipfile.ZipFile(tmp_path / "study.zip").namelist()
    assert written == [f"{source}/anything.webp" for source in make_artwork.STUDY]
    assert artwork.UNSEEN_ARTIST not in make_artwork.STUDY


def test_what_stands_out_is_what_the_script_finds(script) -> None:
    shipped = json.loads(files("regionr1.builtin").joinpath("salient.json").read_text())
    assert script("train_scorer").salient(load_scorer("builtin")) == shipped


def test_every_set_holds_the_drawings_that_the_script_renders(script) -> None:
    make_artwork = script("make_artwork")
    table = json.loads(make_artwork.CATEGORIES.read_text())
    wanted = {name for splits in table.values() for names in splits.values() for name in names}
    assert wanted == {t.name for t in (*artwork.things(), *artwork.practice_things())}
    for artist in make_artwork.PACKAGES:
        names = list(artwork.drawings(artist))
        assert names == [name for name in sorted(wanted) if name in names]  # as they are written
