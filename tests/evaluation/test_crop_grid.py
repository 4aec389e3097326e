"""Headroom without boxes: by hand on coloured squares, luck, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colour_samples import sample
from evqa_files import ColourScorer

from regionr1.cli.data import premise
from regionr1.data.shards.samples import ShardSample
from regionr1.errors import UserError
from regionr1.evaluation.crop_grid import (
    crop_grid_headroom,
    crop_grid_outcomes,
    evenly,
    grid,
)
from regionr1.evaluation.table import Outcome, metrics_table


def table(samples: list[ShardSample]) -> dict[str, dict[str, float | None]]:
    rows = metrics_table(crop_grid_headroom(crop_grid_outcomes(samples, ColourScorer())))
    return {row.method: {k: v.value for k, v in row.metrics.items()} | {"n": row.n} for row in rows}


def test_the_grid_is_the_documented_one() -> None:
    boxes = np.array(grid())
    assert len(boxes) == 42 and len(np.unique(boxes.round(6), axis=0)) == 42
    assert (boxes >= 0).all() and (boxes <= 1 + 1e-9).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    for edge in (boxes[:, 0].min(), 1 - boxes[:, 2].max()):
        assert edge == pytest.approx(0)
    assert boxes[-1].tolist() == [0.25, 0.25, 0.75, 0.75]


def test_a_crop_that_shows_the_square_is_found() -> None:
    corner, middle = sample("a", "red", 0, 20), sample("b", "blue", 18, 28)
    found = table([corner, middle])
    assert found["best_of_grid"]["cond_recall_at_1"] == 1.0
    assert found["centre"]["cond_recall_at_1"] == 0.5  # blue alone lies in the middle
    # Luck: red's crops never show blue, and the other way round.
    assert found["luck_of_grid"]["cond_recall_at_1"] == 0.0
    assert {row["n"] for row in found.values()} == {2}


def test_a_fixed_crop_is_measured_on_entities_it_was_not_chosen_on() -> None:
    """Red lies in a corner and blue in the middle: what is best for one is wrong for the other."""
    reds = [sample(f"r{i}", "red", 0, 20) for i in range(3)]
    blues = [sample(f"b{i}", "blue", 18, 28) for i in range(3)]
    found = table([*reds, *blues])
    assert found["fixed_crop"]["cond_recall_at_1"] == 0.0
    same_place = [sample("r", "red", 0, 20), sample("b", "blue", 0, 20)]
    assert table(same_place)["fixed_crop"]["cond_recall_at_1"] == 1.0


def test_luck_needs_another_entity() -> None:
    found = list(crop_grid_outcomes([sample("a", "red", 0), sample("b", "red", 9)], ColourScorer()))
    assert [len(row) for row in found] == [42, 42]
    (row, _) = crop_grid_outcomes(
        [sample("a", "red", 0, 30), sample("b", "blue", 0, 30)], ColourScorer()
    )
    lucky = row[-1]
    assert isinstance(lucky, Outcome) and lucky.method == "luck_of_grid"
    assert (lucky.key, lucky.decision, lucky.box_unit) == ("a", "REGION", None)
    # Red's pool by the best crop of blue's image: green comes first wherever no blue is seen.
    assert lucky.rank == min(
        1
        + int(
            (
                view @ sample("a", "red", 0).candidates.T
                > view @ sample("a", "red", 0).candidates[1]
            ).sum()
        )
        for box in grid()
        for view in [_embedded(sample("b", "blue", 0, 30), box)]
    )


def _embedded(of: ShardSample, box: tuple[float, float, float, float]) -> np.ndarray:
    from regionr1.algorithm.boxes import crop_px

    crop = of.image.crop(crop_px(box, *of.image.size))
    return ColourScorer().embed_images([crop])[0].numpy()


@pytest.mark.parametrize(("n", "limit"), [(10, 3), (10, None), (3, 10), (7, 7), (1, 1), (100, 9)])
def test_a_limit_takes_queries_from_everywhere(n, limit) -> None:
    samples = [sample(str(i), "red", 0) for i in range(n)]
    kept = [int(s.key) for s in evenly(samples, n, limit)]
    assert len(kept) == min(n, limit or n) and kept == sorted(set(kept))
    gaps = np.diff([-1, *kept])
    assert gaps.max() <= -(-n // len(kept)) and kept[-1] == n - 1


def test_the_command(builtin_shards, tmp_path: Path, capsys) -> None:
    out = tmp_path / "premise.json"
    premise(builtin_shards, split="val", scorer="pixels", out=out, crops=True, limit=3)
    printed = capsys.readouterr().out
    assert "embedding at most 3 images x 42 crops = 126 crops" in printed
    rows = {row["method"]: row for row in json.loads(out.read_text())}
    assert {"full", "centre", "fixed_crop", "best_of_grid"} <= set(rows)
    assert rows["full"]["n"] == rows["best_of_grid"]["n"] == 3
    best, centre = (rows[m]["metrics"]["mrr"]["value"] for m in ("best_of_grid", "centre"))
    assert best >= centre
    with pytest.raises(UserError, match="limit"):
        premise(builtin_shards, split="val", scorer="pixels", limit=0)


class CountingScorer(ColourScorer):
    """Counts the images that it embeds."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def embed_images(self, images):
        self.n += len(images)
        return super().embed_images(images)


def test_crops_that_were_kept_are_read(tmp_path: Path) -> None:
    samples = [sample("a", "red", 20), sample("b", "blue", 40)]
    first, second, third = CountingScorer(), CountingScorer(), CountingScorer()
    found = list(crop_grid_outcomes(samples[:1], first, tmp_path / "kept"))
    again = list(crop_grid_outcomes(samples, second, tmp_path / "kept"))
    assert (first.n, second.n) == (42, 42), "the first query's crops were there"
    assert again[0][:42] == found[0]
    assert again == list(crop_grid_outcomes(samples, third, None)) and third.n == 84


def test_an_image_is_embedded_once_for_all_questions_about_it(tmp_path: Path) -> None:
    red, blue = sample("a", "red", 20), sample("b", "blue", 40)
    asked = [red, *(replace(of, key=f"{of.key}{n}") for of in (red, blue) for n in range(2))]
    scorer, again = CountingScorer(), CountingScorer()
    found = list(crop_grid_outcomes(asked, scorer, tmp_path / "kept"))
    assert scorer.n == 84 and len(list((tmp_path / "kept").iterdir())) == 2
    assert list(crop_grid_outcomes(asked, again, tmp_path / "kept")) == found and again.n == 0
    for question, other, row in zip(asked, [blue, blue, blue, red, red], found, strict=True):
        alone, _ = crop_grid_outcomes([question, other], ColourScorer())
        assert row == alone


def test_an_image_is_known_from_one_chunk_to_the_next(monkeypatch) -> None:
    monkeypatch.setattr("regionr1.evaluation.headroom.BATCH", 2)
    red, blue = sample("a", "red", 20), sample("b", "blue", 40)
    scorer = CountingScorer()
    asked = [red, *(replace(blue, key=f"b{n}") for n in range(3))]
    assert [len(row) for row in crop_grid_outcomes(asked, scorer)] == [43, 43, 42, 42]
    assert scorer.n == 84


def test_luck_is_another_image_even_where_one_image_is_asked_about_two_entities() -> None:
    red, blue = sample("a", "red", 20), sample("b", "blue", 40)
    labels = [name == "blue" for name in red.candidate_ids]
    same = replace(red, key="a2", gold_ids=["blue"], cluster="blue", labels=labels)
    green = replace(blue, key="c", gold_ids=["green"], cluster="green")
    assert [len(row) for row in crop_grid_outcomes([red, same], ColourScorer())] == [42, 42]
    first, *_ = crop_grid_outcomes([red, same, green], ColourScorer())
    alone, _ = crop_grid_outcomes([red, green], ColourScorer())
    assert first == alone and len(first) == 43


def test_an_empty_split_is_one_sentence(builtin_shards, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    record = json.loads((builtin_shards / "val.index.json").read_text())
    record |= {"n_samples": 0, "n_read": 0, "n_with_positive": 0, "full_first": 0, "shards": []}
    (folder / "val.index.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="its val split holds no query"):
        premise(folder, split="val", scorer="pixels")
