"""What a policy does to queries, by where the full image ranks the first positive (paper, table 4).

A good policy leaves alone what the full image has right and crops where it is wrong. Shares are of
the queries of a row, so help, hurt and no change add up to 1, and nothing can change without a crop
or an invalid answer: help + hurt is at most crops + invalid. (In three of the published table's
four rows for ranks above 1 it is more, so its shares must be of something else.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from regionr1.evaluation.markdown import markdown_table
from regionr1.evaluation.table import Outcome, by_method

BANDS = {"1": (1, 1), "> 1": (2, None), "2 to 5": (2, 5), "> 5": (6, None)}
"""Ranks of the first positive by the full image, both ends included."""
POLICIES = ("warm_start", "policy")


@dataclass(frozen=True)
class Band:
    """One policy on the queries of one band of ranks.

    Attributes:
        policy: Row of the test table.
        ranks: Key of BANDS.
        n: Queries whose pool holds a positive there.
        crops: Share that the policy crops.
        invalid: Share with an answer that cannot be read.
        helped: Share whose first positive ranks higher than by the full image.
        hurt: Share whose first positive ranks lower; invalid answers are among them.
        first: Share that ranks a positive first in the end.
    """

    policy: str
    ranks: str
    n: int
    crops: float
    invalid: float
    helped: float
    hurt: float
    first: float


def by_full_rank(outcomes: Iterable[Outcome]) -> list[Band]:
    """The bands that hold queries, for each of POLICIES that was tested.

    Args:
        outcomes: Outcomes of all methods.
    """
    methods = by_method(outcomes)
    full = methods.get("full", {})
    rows = []
    for policy in POLICIES:
        pairs = [
            (full[key].rank, chosen)
            for key, chosen in methods.get(policy, {}).items()
            if chosen.pool_has_positive and key in full
        ]
        for name, (low, high) in BANDS.items():
            inside = [
                (before, float("inf") if o.ranking is None else o.rank, o.decision)
                for before, o in pairs
                if low <= before and (high is None or before <= high)
            ]
            if inside:
                n = len(inside)
                rows.append(
                    Band(
                        policy=policy,
                        ranks=name,
                        n=n,
                        crops=sum(decision == "REGION" for *_, decision in inside) / n,
                        invalid=sum(decision == "INVALID" for *_, decision in inside) / n,
                        helped=sum(after < before for before, after, _ in inside) / n,
                        hurt=sum(after > before for before, after, _ in inside) / n,
                        first=sum(after == 1 for _, after, _ in inside) / n,
                    )
                )
    return rows


def band_table(bands: Sequence[Band]) -> str:
    """The bands as a Markdown table."""
    heads = ["policy", "rank by full image", "N", "crops", "helped", "hurt", "no change", "first"]
    rows = [
        [
            *(band.policy, band.ranks, str(band.n)),
            *(f"{share:.3f}" for share in (band.crops, band.helped, band.hurt)),
            *(f"{share:.3f}" for share in (1 - band.helped - band.hurt, band.first)),
        ]
        for band in bands
    ]
    return markdown_table(heads, rows)
