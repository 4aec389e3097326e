"""Faults that need no pixels are found before anything is embedded, by file and line."""

import json
from pathlib import Path

import pytest
from evqa_files import ColourScorer, make_evqa, prepare_shards, url_of
from filelock import FileLock
from infoseek_files import write_jsonl
from own_files import make_own
from PIL import Image

from regionr1.cli.main import main
from regionr1.data.build.label import EXTREME
from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.readers.own import OwnSource
from regionr1.data.shards.describe import verify
from regionr1.data.shards.stream import read_samples


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def root(tmp_path) -> Path:
    """Forty shops, so that the last line is in a late part."""
    root = make_own(tmp_path / "own")
    entities = [{"id": c, "title": f"Shop {c}", "images": [f"{c}.png"]} for c in ("red", "blue")]
    for n in range(38):
        Image.new("RGB", (40, 30), (6 * n, 90, 250 - 6 * n)).save(root / f"{n}.png")
        entities.append({"id": f"e{n}", "title": f"Shop {n}", "images": [f"{n}.png"]})
    write_jsonl(root / "entities.jsonl", entities)
    return root


def prepare(root: Path, *more: object) -> int:
    command = ["data", "prepare", "--root", root, "--source", "own", "--work", root.parent / "work"]
    command += ["--out", root.parent / "shards", "--scorer", "pixels", "--k", 3, *more]
    return main([*map(str, command), "--part_size", "4"])


def embedded_parts(root: Path) -> list[Path]:
    return sorted((root.parent / "work").glob("*/part-*.npy"))


FAULTS = {
    "an id twice": ("entities", {"id": "e3"}, r"entities.jsonl:40: id 'e3' occurs twice; keep one"),
    "no images": ("entities", {"images": None}, r"entities.jsonl:40: 'images' must be a list"),
    "a path outside": ("entities", {"images": ["../x.png"]}, "entities.jsonl:40: path '../x.png'"),
    "a query id twice": ("test", {"id": "1.red"}, "test.jsonl:2: id '1.red' occurs twice"),
    "a box outside": ("test", {"box_px": [1, 1, 60, 20]}, "test.jsonl:2: box_px [1, 1, 60, 20] is"),
    "a unit box": ("test", {"box_px": [0.1, 0.1, 0.9, 0.5]}, "test.jsonl:2: box_px [0.1, 0.1"),
    "an xywh box": ("test", {"box_px": [30, 20, 9, 9]}, "x1 < x2 and y1 < y2 in pixels of its"),
    "digits": ("test", {"box_px": [1, 2, 3, 10**400]}, "test.jsonl:2: box_px must be 4 numbers"),
    "half a character": ("entities", {"title": "\ud800"}, "entities.jsonl:40: not valid JSON"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_it_is_said_by_inspect_and_before_embedding(root, capsys, name) -> None:
    file, values, message = FAULTS[name]
    path = root / f"{file}.jsonl"
    good = lines_of(path)
    write_jsonl(path, [*good[:-1], {**good[-1], **values}])
    for command in (lambda: main(["data", "inspect", "--root", str(root), "--source", "own"]),
                    lambda: prepare(root)):  # fmt: skip
        assert command() == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert message in said and len(said) < 400, said
    assert embedded_parts(root) == []
    write_jsonl(path, good)
    assert prepare(root) == 0


def test_deep_json_is_one_sentence(root, capsys) -> None:
    with (root / "entities.jsonl").open("a") as file:
        file.write('{"id": "x", "title": "x", "images": ' + "[" * 99_999 + "]" * 99_999 + "}\n")
    assert prepare(root) == 2
    assert "entities.jsonl:41: not valid JSON (nested too deeply)" in capsys.readouterr().err


def test_what_was_embedded_is_kept_when_a_record_is_mended(root) -> None:
    assert prepare(root) == 0
    before = {path: path.stat().st_mtime_ns for path in embedded_parts(root)}
    entities = lines_of(root / "entities.jsonl")
    entities[-1]["text"] = "Mended."
    write_jsonl(root / "entities.jsonl", entities)
    assert prepare(root, "--overwrite", "true") == 0
    after = {path: path.stat().st_mtime_ns for path in embedded_parts(root)}
    changed = [path.name for path in before if before[path] != after[path]]
    assert before.keys() == after.keys() and changed == ["part-000009.npy"]


def test_an_entry_twice_in_a_json_knowledge_base(tmp_path, capsys) -> None:
    (tmp_path / "data").mkdir()
    root = make_evqa(tmp_path / "data").write()
    path = root / "encyclopedic_kb_wiki.json"
    text = path.read_text()
    again = json.dumps(url_of(0)) + ": " + json.dumps(json.loads(text)[url_of(0)])
    path.write_text(text.rstrip()[:-1] + ", " + again + "}")
    for command in (["inspect"], ["embed", "--work", str(tmp_path / "work"), "--scorer", "pixels"]):
        assert main(["data", command[0], "--root", str(root), *command[1:]]) == 2
        assert "occurs twice, the second time as entry 6; keep one" in capsys.readouterr().err
    assert not list(tmp_path.glob("work/*/part-*"))


def test_results_of_another_system_are_read_first(root, capsys) -> None:
    results = root.parent / "results.json"
    results.write_text(json.dumps({"1.red": {"retrieved_entries": ["red"]}, "1.blue": {"x": 1}}))
    assert prepare(root, "--results", results, "--splits", '["test"]') == 2
    assert "'1.blue': has no list 'retrieved_entries'" in capsys.readouterr().err
    assert embedded_parts(root) == []


def test_an_image_that_only_a_policy_refuses_is_left_out_and_counted(root, capsys) -> None:
    """Qwen's processor refuses ratios above 200: in training, that came at a random step."""
    Image.new("RGB", (1000, 4), "red").save(root / "banner.png")
    Image.new("RGB", (5, 1000), "red").save(root / "divider.png")
    for split, extra in (("train", "banner.png"), ("val", "divider.png"), ("test", "banner.png")):
        record = {"image": extra, "question": "Which shop?", "gold": ["red"], "id": "1.extra"}
        write_jsonl(root / f"{split}.jsonl", [*lines_of(root / f"{split}.jsonl"), record])
    assert prepare(root) == 0
    told = capsys.readouterr().out
    assert f"train: 1 left out: {EXTREME}, the first: train-0000003-1_extra (1000x4)" in told

    indices = {index.split: index for index in verify(root.parent / "shards")}
    for split, n_left_out in (("train", 1), ("val", 0), ("test", 1)):
        index = indices[split]
        assert index.skipped.get(EXTREME, 0) == n_left_out
        assert index.n_read == 3 == index.n_samples + n_left_out
        samples = list(read_samples(root.parent / "shards", index))
        assert max(max(s.image.size) / min(s.image.size) for s in samples) <= 200


def test_a_box_is_of_the_upright_image(root) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side: 20x60 upright
    Image.new("RGB", (60, 20), "red").save(root / "turned.jpg", exif=exif)
    record = {"image": "turned.jpg", "question": "Which shop?", "gold": ["red"]}
    write_jsonl(root / "val.jsonl", [{**record, "box_px": [1, 30, 20.5, 60]}])
    (query,) = OwnSource(root).queries("val", report())
    assert query.reference_box_px == (1, 30, 20, 60), "half a pixel outside is a rounded edge"
    write_jsonl(root / "val.jsonl", [{**record, "box_px": [30, 1, 60, 20]}])
    with pytest.raises(Exception, match="upright image of 20x60"):
        OwnSource(root).queries("val", report())


def report():
    from regionr1.data.records import SkipReport

    return SkipReport()


def test_one_process_at_a_time_builds(root, capsys) -> None:
    work = root.parent / "work"
    work.mkdir()
    with FileLock(work / ".regionr1-lock"):
        assert prepare(root) == 2
    assert "another process builds shards with it; wait for it" in capsys.readouterr().err
    assert prepare(root) == 0


class Killed(BaseException):
    """What no handler of errors catches."""


class DyingScorer(ColourScorer):
    def embed_images(self, images):
        if self.calls == 3:
            raise Killed
        return super().embed_images(images)


def test_without_a_work_folder_a_killed_run_goes_on_too(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    make_evqa(tmp_path / "data").write()
    source, out = EvqaSource(tmp_path / "data"), tmp_path / "shards"
    with pytest.raises(Killed):
        prepare_shards(source, DyingScorer(), out, k=4, part_size=3)
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == [".shards.work"]
    (tmp_path / ".shards.work" / "of-other-settings").mkdir()
    scorer = ColourScorer()
    prepare_shards(source, scorer, out, k=4, part_size=3)
    whole, anew = ColourScorer(), tmp_path / "anew"
    prepare_shards(source, whole, anew, k=4, part_size=3)
    assert scorer.calls == whole.calls - 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anew", "data", "shards"]
    for path in anew.iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name
