"""The rows that a test leaves of queries whose ranks and decisions are given by hand."""

import math

from regionr1.evaluation.table import Outcome


def query(
    key: str, p_region: float, full: float, crop: float, cropped: bool, **groups: str
) -> list[Outcome]:
    """The rows full, policy_region and policy of one query, by the rank that each view gives."""
    views = {
        "full": (full, "FULL", None),
        "policy_region": (crop, "REGION", 1 - p_region),
        "policy": (crop if cropped else full, "REGION" if cropped else "FULL", 1 - p_region),
    }
    return [
        Outcome(
            *(key, f"entity {key[:2]}", method),
            ranking=["right"] if rank == 1 else ["wrong", "right"],
            gold_ids=["right"],
            pool_has_positive=math.isfinite(rank),
            rank=rank,
            ndcg=0.5,
            decision=decision,
            p_full=p_full,
            groups=groups,
        )
        for method, (rank, decision, p_full) in views.items()
    ]


FOUR = [
    *query("q1", 0.9, full=2, crop=1, cropped=True, kind="thing"),  # right
    *query("q2", 0.8, full=1, crop=4, cropped=True, kind="place"),  # wrong, surely
    *query("q3", 0.3, full=1, crop=2, cropped=False, kind="place"),  # right
    *query("q4", 0.4, full=3, crop=1, cropped=False, kind="thing"),  # wrong
    *query("q5", 0.7, full=1, crop=1, cropped=True, kind="thing"),  # a tie
    *query("q6", 0.7, full=math.inf, crop=math.inf, cropped=True, kind="thing"),  # no positive
]
