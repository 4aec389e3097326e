"""Behaviour by the full image's rank: by hand, and in agreement with the test table."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionr1.evaluation.by_rank import BANDS, band_table, by_full_rank
from regionr1.evaluation.table import Outcome, metrics_table

INF = float("inf")


def outcome(key: str, method: str, rank: float, decision: str, positive: bool = True) -> Outcome:
    ranking = None if decision == "INVALID" else ["right"] if rank == 1 else ["wrong", "right"]
    return Outcome(key, "e", method, ranking, ["right"], positive, rank, 0.5, decision)


def queries(*rows: tuple[float, float, str]) -> list[Outcome]:
    """The rows full and policy of queries: rank by full image, rank by choice, decision."""
    return [
        o
        for i, (full, chosen, decision) in enumerate(rows)
        for o in (outcome(f"q{i}", "full", full, "FULL"),
                  outcome(f"q{i}", "policy", chosen, decision))
    ]  # fmt: skip


def test_bands_by_hand() -> None:
    found = {
        band.ranks: band
        for band in by_full_rank([
            *queries(
                (1, 1, "FULL"), (1, 3, "REGION"), (1, 1, "REGION"), (1, INF, "INVALID"),
                (2, 1, "REGION"), (5, 7, "REGION"), (6, 2, "REGION"), (9, 9, "FULL"),
            ),
            outcome("none", "full", INF, "FULL", False),
            outcome("none", "policy", INF, "REGION", False),
        ])
    }  # fmt: skip
    assert list(found) == list(BANDS)
    first, other = found["1"], found["> 1"]
    assert (first.n, first.crops, first.invalid) == (4, 0.5, 0.25)
    assert (first.helped, first.hurt, first.first) == (0.0, 0.5, 0.5)
    assert (other.n, other.crops, other.helped, other.hurt, other.first) == (
        4,
        0.75,
        0.5,
        0.25,
        0.25,
    )
    assert (found["2 to 5"].n, found["> 5"].n) == (2, 2)
    lines = band_table(list(found.values())).splitlines()
    assert len(lines) == 6 and "0.750" in lines[3]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 20), st.integers(1, 20), st.sampled_from(["FULL", "REGION", "INVALID"])
        ),
        min_size=1,
        max_size=40,
    )
)
def test_the_bands_agree_with_each_other_and_with_the_table(rows) -> None:
    rows = [(full, full if decision == "FULL" else rank, decision) for full, rank, decision in rows]
    outcomes = queries(*rows)
    bands = {band.ranks: band for band in by_full_rank(outcomes)}
    parts = [bands[name] for name in ("1", "> 1") if name in bands]
    assert sum(band.n for band in parts) == len(rows)
    table = {row.method: row.metrics for row in metrics_table(outcomes, resamples=1)}

    def overall(share: str) -> float:
        return sum(getattr(band, share) * band.n for band in parts) / len(rows)

    assert overall("first") == pytest.approx(table["policy"]["cond_recall_at_1"].value)
    assert overall("crops") == pytest.approx(table["policy"]["region_rate"].value)
    assert overall("invalid") == pytest.approx(table["policy"]["invalid_rate"].value)
    for band in bands.values():
        assert band.helped + band.hurt <= band.crops + band.invalid + 1e-9
    if "1" in bands:
        assert bands["1"].helped == 0 and bands["1"].first == pytest.approx(1 - bands["1"].hurt)
        share = bands["1"].n / len(rows)
        assert table["full"]["cond_recall_at_1"].value == pytest.approx(share)
    finer = [bands[name] for name in ("2 to 5", "> 5") if name in bands]
    assert sum(band.n for band in finer) == (bands["> 1"].n if "> 1" in bands else 0)


def test_what_was_not_tested_has_no_bands() -> None:
    assert by_full_rank([outcome("q", "full", 1, "FULL")]) == []
    assert by_full_rank([outcome("q", "policy", 1, "FULL")]) == []
