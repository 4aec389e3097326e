"""Counts of a folder, against plain counts of the same files."""

import csv
import json
import shutil
from collections import Counter

import pytest
from evqa_files import make_evqa, url_of
from infoseek_files import make_infoseek

from regionr1.cli import data as commands
from regionr1.cli.main import main
from regionr1.data.readers.inspect import inspect_source
from regionr1.data.readers.registry import open_source
from regionr1.data.records import SkipReport
from regionr1.errors import UserError


def test_counts_are_those_of_the_csv(tmp_path) -> None:
    files = make_evqa(tmp_path, {"train": 9, "val": 4, "test": 8})
    for n, kind in enumerate(("automatic", "multi_answer", "2_hop")):
        files.rows["test"][n]["question_type"] = kind
    files.rows["test"][3]["wikipedia_url"] = "https://en.wikipedia.org/wiki/Absent"
    files.write()
    files.image_of("test", 5).unlink()
    (tmp_path / "val.csv").unlink()
    found = inspect_source(open_source("evqa", tmp_path, include_two_hop=True))
    for split in ("train", "test"):
        with (tmp_path / f"{split}.csv").open(newline="", encoding="utf-8") as file:
            rows = [
                row for row in csv.DictReader(file) for _ in row["dataset_image_ids"].split("|")
            ]
        counts = found.splits[split]
        assert counts.questions == len(rows)
        assert counts.by_type == Counter(row["question_type"] for row in rows)
        assert counts.by_source == Counter(row["dataset_name"] for row in rows)
        assert counts.gold_entities == len({row["wikipedia_url"] for row in rows})
    assert found.splits["test"].missing_images == 1 and found.splits["train"].missing_images == 0
    assert found.splits["test"].gold_not_in_kb == 1
    assert found.missing == ["val.csv is missing"] and "val" not in found.splits
    assert found.knowledge_base == {
        "entities": 5,
        "entities with an image file": 5,
        "images with a file": 10,
        "images without a file": 5,
    }


def test_command_prints_and_writes(tmp_path, capsys) -> None:
    root = tmp_path / "data"
    root.mkdir()
    make_infoseek(root, echosight=False)
    out = tmp_path / "counts.json"
    assert (
        main(["data", "inspect", "--root", str(root), "--source", "infoseek", "--out", str(out)])
        == 0
    )
    printed = capsys.readouterr().out
    assert "test: 6 image-question pairs" in printed
    assert "by subset: unseen_entity 3, unseen_question 3" in printed
    assert "by type: numerical 2, string 2, time 2" in printed
    assert "knowledge base: 6 entities" in printed and "missing" not in printed
    assert json.loads(out.read_text())["splits"]["test"]["by_type"]["time"] == 2


def test_without_the_knowledge_base(tmp_path, capsys) -> None:
    files = make_evqa(tmp_path)
    files.write()
    commands.inspect(tmp_path, read_kb=False)
    assert "knowledge base" not in capsys.readouterr().out
    files.kb[url_of(1)]["title"] = None
    files.write()
    with pytest.raises(UserError, match="no text field 'title'"):
        commands.inspect(tmp_path)


def test_wrong_root(tmp_path, capsys) -> None:
    assert main(["data", "inspect", "--root", str(tmp_path / "nowhere")]) == 2
    assert "no such folder; name the one that holds E-VQA" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    commands.inspect(tmp_path / "empty")
    assert "missing: test.csv is missing" in capsys.readouterr().out


def test_before_the_images_are_there_questions_are_counted(tmp_path, capsys) -> None:
    """Text is small and images are large: a folder is looked at before they are fetched."""
    make_evqa(tmp_path / "evqa").write()
    for images in ("inaturalist", "google-landmarks"):
        shutil.rmtree(tmp_path / "evqa" / images)
    found = inspect_source(open_source("evqa", tmp_path / "evqa")).splits["test"]
    assert found.questions == found.missing_images > 0
    assert "no such folder; it should hold" in found.first_missing
    for echosight in (True, False):
        root = make_infoseek(tmp_path / str(echosight), echosight)
        shutil.rmtree(root / "oven_images")
        for kb in (*root.glob("wiki_100*"), *root.glob("Wiki6M*")):
            kb.unlink()
        assert main(["data", "inspect", "--root", str(root), "--source", "infoseek"]) == 0
        printed = capsys.readouterr().out
        assert "test: 6 image-question pairs" in printed and "missing: oven_images" in printed
        assert "6 without an image file" in printed
        with pytest.raises(UserError, match="no such folder; it should hold OVEN's images"):
            open_source("infoseek", root).queries("test", SkipReport(), skip_missing=True)


def test_two_hop_is_only_evqas(tmp_path) -> None:
    with pytest.raises(UserError, match="'own' has no two-hop questions; E-VQA has"):
        open_source("own", tmp_path, include_two_hop=True)
