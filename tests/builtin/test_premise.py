"""The premise of the built-in benchmark: its numbers are checked, and a miss is said."""

import json

import numpy as np
import pytest
import torch

from regionr1.builtin.premise import Check, Measured, builtin_premise
from regionr1.errors import UserError


def test_a_number_outside_its_range_is_marked() -> None:
    assert "MISSED" in str(Check("room", 0.11, low=0.12))
    assert "MISSED" not in str(Check("room", 0.12, low=0.12))
    assert not Check("nothing to measure", float("nan"), low=0.1).met


def test_told_queries_are_answerable_and_ranked_differently() -> None:
    ranks = {"full": np.array([1, 2, 2, 1]), "untrained": np.array([2, 2, 1, 3])}
    found = Measured(
        ["thing_clear"] * 4, ["?"] * 4, np.array([True, True, True, False]), ranks, np.zeros(4),
        torch.zeros(4, 2),
    )  # fmt: skip
    index, better = found.told
    assert index.tolist() == [0, 2] and better.tolist() == [False, True]


def test_the_numbers_are_printed_written_and_may_be_required(
    small_benchmark, builtin_shards, tiny_policy, tmp_path, capsys
) -> None:
    """An untrained policy of a few weights and raw pixels: nothing of it holds."""
    options = {"policy": str(tiny_policy), "scorer": "pixels", "queries": 12}
    out = tmp_path / "premise.json"
    builtin_premise(builtin_shards, small_benchmark, out=out, **options)
    printed = capsys.readouterr().out
    numbers = json.loads(out.read_text())
    assert all(name in printed for name in numbers) and "MISSED" in printed
    with pytest.raises(UserError, match="the premise does not hold: .*the view that tells"):
        builtin_premise(builtin_shards, small_benchmark, strict=True, **options)
