"""Which queries a report shows, and what it shows of them."""

import math
from pathlib import Path

import pytest
from colour_samples import sample
from PIL import Image

from regionr1.errors import UserError
from regionr1.evaluation.cases import cases_of, chosen_cases
from regionr1.evaluation.pictures import case_picture
from regionr1.evaluation.table import Outcome


def outcome(key: str, method: str, rank: float, ranking=("green", "red"), **changes) -> Outcome:
    values = {
        **dict(cluster="red", gold_ids=["red"], pool_has_positive=math.isfinite(rank), ndcg=0.5),
        **dict(ranking=list(ranking), decision="FULL"),
        **changes,
    }
    return Outcome(key=key, method=method, rank=rank, **values)


def pairs(**ranks: tuple[float, float]) -> list[Outcome]:
    return [
        outcome(key, method, rank)
        for key, both in ranks.items()
        for method, rank in zip(("full", "policy"), both, strict=True)
    ]


def test_gains_losses_and_chance() -> None:
    found = chosen_cases(
        pairs(a=(2, 1), b=(1, 4), c=(5, 1), d=(3, 3), e=(1, 2), f=(math.inf, math.inf)), 2
    )
    assert found["Best gains"] == ["c", "a"] and found["Worst losses"] == ["b", "e"]
    assert len(set(found["Random queries"])) == 2 and "f" not in found["Random queries"]
    assert chosen_cases(pairs(a=(2, 2)), 3) == {"Random queries": ["a"]}
    assert chosen_cases(pairs(f=(math.inf, math.inf)), 3) == {}


def test_an_invalid_answer_is_the_worst_loss() -> None:
    rows = pairs(a=(1, 4), b=(1, 1))
    rows[-1].decision, rows[-1].ranking = "INVALID", None
    assert chosen_cases(rows, 1)["Worst losses"] == ["b"]


def test_a_case_shows_candidates_before_and_after(tmp_path: Path) -> None:
    for name in ("green", "red", "blue"):
        Image.new("RGB", (9, 9), name).save(tmp_path / f"{name}.png")
    rows = [
        outcome("a", "full", 2),
        outcome(
            "a", "policy", 1, ("red", "red", "green"), decision="REGION", box_unit=(0, 0, 0.5, 0.5)
        ),
    ]
    case = cases_of(rows, [sample("a", "red", 0, 20)], tmp_path)["a"]
    assert case.box_px == (0, 0, 32, 32) and (case.rank_full, case.rank_view) == (2, 1)
    assert [(c.name, c.positive) for c in case.top_full] == [("green", False), ("red", True)]
    assert [c.name for c in case.top_view] == ["red", "green"]
    red = case.top_view[0].image
    assert red is not None and red.getpixel((4, 4)) == (255, 0, 0)
    assert case_picture([case]).width > 300
    bare = cases_of(rows, [sample("a", "red", 0, 20)])["a"]
    assert bare.top_view[0].image is None and case_picture([bare]).width > 300
    (tmp_path / "red.png").unlink()
    with pytest.raises(UserError, match="red.png"):
        cases_of(rows, [sample("a", "red", 0, 20)], tmp_path)
