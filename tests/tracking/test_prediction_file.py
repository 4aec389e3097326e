"""One file of predictions from several processes, and what a run that fails leaves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from regionr1.errors import UserError
from regionr1.evaluation.predictions import Prediction, read_predictions
from regionr1.tracking.callbacks.prediction_file import PredictionFile


def prediction(key: str) -> Prediction:
    query = (key, f"my {key}", "a.png", "Which?", ["a"], (40, 30))
    return Prediction(*query, "FULL", None, 0.9, 0.9, ["a"], [0.5], ["a"], [0.5])


def process(rank: int, of: int) -> Any:
    """What the callback asks of the trainer of one process."""
    strategy = SimpleNamespace(barrier=lambda name: None)
    return SimpleNamespace(
        global_rank=rank, world_size=of, is_global_zero=rank == 0, strategy=strategy
    )


@pytest.mark.parametrize(("form", "ending"), [("jsonl", "jsonl"), ("trec", "trec")])
def test_processes_write_parts_and_the_first_joins_them(
    tmp_path: Path, monkeypatch, capsys, form, ending
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [PredictionFile(format=form) for _ in range(2)]
    trainers: list[Any] = [process(rank, of=2) for rank in range(2)]
    for file, trainer in zip(files, trainers, strict=True):
        file.on_predict_start(trainer, None)
        for batch in range(2):
            found = [prediction(f"q{trainer.global_rank}{batch}")]
            file.on_predict_batch_end(trainer, None, found, None, batch)
    for file, trainer in reversed([*zip(files, trainers, strict=True)]):
        file.on_predict_end(trainer, None)
    path = Path(f"predictions.{ending}")
    assert f"wrote 4 predictions to {path}" in capsys.readouterr().out
    if form == "jsonl":
        assert [p.key for p in read_predictions(path)] == ["q00", "q01", "q10", "q11"]
    else:
        assert path.read_text().splitlines()[3] == "my%20q11 Q0 a 1 0.5 regionr1"
    assert {p.name for p in tmp_path.iterdir()} - {path.name} <= {f"{path.name}.qrels"}


def test_a_run_that_fails_says_where_its_lines_are(tmp_path: Path, capsys) -> None:
    file, trainer = PredictionFile(str(tmp_path / "p.jsonl")), process(0, of=1)
    file.on_predict_start(trainer, None)
    file.on_predict_batch_end(trainer, None, [prediction("q0")], None, 0)
    file.on_exception(trainer, None, RuntimeError())
    assert f"1 predictions so far are in {tmp_path}/p.jsonl.partial" in capsys.readouterr().out
    assert [p.key for p in read_predictions(tmp_path / "p.jsonl.partial")] == ["q0"]


def test_a_file_that_cannot_be_written_is_found_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        PredictionFile(str(tmp_path / "file" / "p.jsonl")).on_predict_start(process(0, 1), None)
