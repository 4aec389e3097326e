"""Prediction files are whole or absent."""

import json
import math
from pathlib import Path

import pytest

from regionr1.errors import UserError
from regionr1.evaluation.predictions import Prediction, write_predictions

REGION = Prediction(
    "q1",
    "Où vit cet oiseau ?",
    "REGION",
    [1, 2, 30, 40],
    ["b", "a"],
    ["a", "b"],
    [0.9, 0.1],
    0.25,
    0.75,
)
INVALID = Prediction("q2", "Which?", "INVALID", None, ["b", "a"], None, None, 0.5, 0.5)


def test_lines_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "p.jsonl"
    assert write_predictions(path, [REGION, INVALID]) == 2
    first, second = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert first["box_px"] == [1, 2, 30, 40] and first["question"] == "Où vit cet oiseau ?"
    assert first["ranking_full"] == ["b", "a"] and first["ranking"] == ["a", "b"]
    assert (first["p_full"], first["p_full_warm_start"]) == (0.25, 0.75)
    assert second["decision"] == "INVALID" and second["ranking"] is None


def test_a_failure_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_predictions(path, [INVALID])
    before = path.read_bytes()
    bad = Prediction("q3", "Which?", "FULL", None, ["a"], ["a"], [math.nan], 0.5, 0.5)
    with pytest.raises(ValueError):
        write_predictions(path, [REGION, bad])
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


@pytest.mark.parametrize("scores", [None, [0.1]])
def test_scores_must_fit_the_ranking(tmp_path: Path, scores) -> None:
    bad = Prediction("q3", "Which?", "FULL", None, ["a", "b"], ["a", "b"], scores, 0.5, 0.5)
    with pytest.raises(ValueError, match="q3"):
        write_predictions(tmp_path / "p.jsonl", [bad])


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="p.jsonl: cannot be written .* another path"):
        write_predictions(tmp_path / "file" / "p.jsonl", [INVALID])
