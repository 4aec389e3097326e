"""Predictions are written as they come, and read by what others evaluate and generate with."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ir_measures
import pytest
from ir_measures import RR

from regionr1.data.build.pools_imported import pages_of
from regionr1.errors import UserError
from regionr1.evaluation.predictions import Prediction, PredictionWriter, read_predictions
from regionr1.evaluation.result_files import title_of, write_results

WIKI = "https://en.wikipedia.org/wiki/"
A, B, C = f"{WIKI}Edificio_Espa%C3%B1a", f"{WIKI}B", "a page of mine"
REGION = Prediction(
    "q1", "E-VQA_0", "a.png", "Où vit cet oiseau ?", [A], (40, 30), "REGION", [1, 2, 30, 40],
    0.25, 0.75, [B, A, C], [0.8, 0.7, 0.6], [A, B, C], [0.9, 0.5, 0.5],
)  # fmt: skip
INVALID = replace(
    REGION, key="q2", data_id="my own #2", decision="INVALID", box_px=None, ranking=None,
    scores=None,
)  # fmt: skip
UNNAMED = replace(REGION, key="q3", data_id=None, gold_ids=[C])


def written(path: Path, predictions: Sequence[Prediction]) -> Path:
    with PredictionWriter(path) as writer:
        writer.write(predictions)
    return path


def test_lines_read_back(tmp_path: Path) -> None:
    path = written(tmp_path / "new" / "p.jsonl", [REGION, INVALID])
    first, second = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert first["box_px"] == [1, 2, 30, 40] and first["question"] == "Où vit cet oiseau ?"
    assert first["ranking_full"] == [B, A, C] and first["ranking"] == [A, B, C]
    assert (first["p_full"], first["p_full_warm_start"]) == (0.25, 0.75)
    assert (first["image"], first["gold_ids"], first["size"]) == ("a.png", [A], [40, 30])
    assert second["data_id"] == "my own #2" and second["ranking"] is None
    assert [p.key for p in read_predictions(path)] == ["q1", "q2"]


def test_lines_can_be_read_while_others_are_written(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with PredictionWriter(path) as writer:
        for n in range(3):
            writer.write([replace(REGION, key=f"q{n}")])
            seen = [p.key for p in read_predictions(writer.partial)]
            assert seen == [f"q{i}" for i in range(n + 1)] and not path.exists()
    assert len(path.read_text().splitlines()) == 3 and not writer.partial.exists()


def test_a_failure_half_way_leaves_the_old_file_and_what_there_was(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", [INVALID])
    before = path.read_bytes()
    with pytest.raises(ValueError), PredictionWriter(path) as writer:
        writer.write([REGION])
        writer.write([replace(REGION, scores=[math.nan, 0.5, 0.5])])
    assert path.read_bytes() == before
    assert [p.key for p in read_predictions(tmp_path / "p.jsonl.partial")] == ["q1"]


@pytest.mark.parametrize(
    "change", [{"scores": None}, {"scores": [0.1]}, {"scores_full": [0.1]}], ids=str
)
def test_scores_must_fit_the_ranking(tmp_path: Path, change) -> None:
    with pytest.raises(ValueError, match="q1"), PredictionWriter(tmp_path / "p.jsonl") as writer:
        writer.write([replace(REGION, **change)])


def test_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="p.jsonl: cannot be written .* another path"):
        PredictionWriter(tmp_path / "file" / "p.jsonl")


def test_a_run_file_that_trec_eval_reads_in_our_order(tmp_path: Path) -> None:
    """The tie of B and C stays in our order, though trec_eval would put C's name first."""
    parts = [written(tmp_path / f"part{n}", [p]) for n, p in enumerate([REGION, INVALID, UNNAMED])]
    path = tmp_path / "p.trec"
    total, notes = write_results(parts, path, "trec")
    assert total == 3 and "1 INVALID answers have no lines; `trec_eval -c" in notes[1]
    run = list(ir_measures.read_trec_run(str(path)))
    assert [r.doc_id for r in run[:3]] == [A, B, "a%20page%20of%20mine"]
    assert run[0].query_id == "E-VQA_0" and run[3].query_id == "q3"
    qrels = list(ir_measures.read_trec_qrels(f"{path}.qrels"))
    assert [q.query_id for q in qrels] == ["E-VQA_0", "my%20own%20#2", "q3"]
    found = {m.query_id: m.value for m in ir_measures.iter_calc([RR], qrels, run)}
    assert found["E-VQA_0"] == 1 and found["q3"] == pytest.approx(1 / 3)
    assert ir_measures.calc_aggregate([RR], qrels, run)[RR] == pytest.approx((1 + 0 + 1 / 3) / 3)


@pytest.mark.parametrize("kind", ["echosight", "omgm"])
def test_result_files_of_others(tmp_path: Path, kind) -> None:
    """Ours reads them back too; an INVALID answer keeps the order, for a generator needs a page."""
    part = written(tmp_path / "part", [REGION, INVALID, UNNAMED])
    total, notes = write_results([part], tmp_path / "r.json", kind)
    assert total == 3 and "1 INVALID" in notes[0] and "1 queries left out" in notes[1]
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert list(found) == ["E-VQA_0", "my own #2"]
    first, second = found.values()
    if kind == "echosight":
        assert first["reranked_entries"] == [A, B, C] and second["reranked_entries"] == [B, A, C]
        assert pages_of(first["retrieved_entries"], "here") == [B, A, C]
        assert first["retrieval_similarities"] == [0.8, 0.7, 0.6]
    else:
        assert first["retrieved_entities"][0] == {"url": A, "title": "Edificio España"}
        assert first["retrieval_similarities"] == [0.9, 0.5, 0.5]
        assert second["retrieval_similarities"] == [0.8, 0.7, 0.6]
        assert [entry["url"] for entry in second["retrieved_entities"]] == [B, A, C]
    none = written(tmp_path / "none", [])
    assert write_results([none], tmp_path / "n.json", kind) == (0, [])
    assert json.loads((tmp_path / "n.json").read_text()) == {}


def test_titles() -> None:
    assert [title_of(page) for page in (A, C)] == ["Edificio España", C]
