"""Whether the figures of two runs may stand in one table: same queries, same pools, same scorer.

All is read from the per-query results of the row `full`, not from paths or names, which may change
while the data stays, or stay while the data changes.
"""

from collections.abc import Sequence

from regionr1.errors import UserError
from regionr1.evaluation.table import Outcome, by_method
from regionr1.evaluation.tested import TestedRun


def alike(runs: Sequence[TestedRun]) -> list[list[TestedRun]]:
    """The runs in groups whose figures may stand in one table, in order of first appearance.

    Raises:
        UserError: A run was tested on no query, or two of them share none.
    """
    groups: list[list[TestedRun]] = []
    for run in runs:
        if not run.outcomes:
            raise UserError(
                f"{run.name} was tested on an empty split, so there is nothing to report; test it "
                "on shards that hold queries"
            )
        if not (_full(runs[0]).keys() & _full(run).keys()):
            raise UserError(
                f"{runs[0].name} and {run.name} were tested on different data, without one query "
                "in common; report and compare them apart"
            )
        for group in groups:
            if not differing(group[0], run):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def differing(first: TestedRun, other: TestedRun) -> list[str]:
    """What forbids one table for both, a sentence each; empty where nothing does."""
    ours, theirs = _full(first), _full(other)
    shared = [key for key in ours if key in theirs]
    names = f"{first.name} and {other.name}"
    found = []
    if ours.keys() != theirs.keys():
        found.append(
            f"{names} were tested on different queries: {len(ours)} and {len(theirs)}, of which "
            f"they share {len(shared)}."
        )
    gold = sum(set(ours[k].gold_ids) != set(theirs[k].gold_ids) for k in shared)
    if gold:
        found.append(f"{names} have different right entities for {gold} of {len(shared)} queries.")
    pools = sum(_pool(ours[k]) != _pool(theirs[k]) for k in shared)
    if pools:
        found.append(f"{names} have different pools for {pools} of {len(shared)} queries.")
    elif orders := sum(ours[k].ranking != theirs[k].ranking for k in shared):
        found.append(
            f"{names} have different scorers: the full image ranks the same pool otherwise for "
            f"{orders} of {len(shared)} queries."
        )
    return found


def same_pools(first: TestedRun, other: TestedRun) -> bool:
    """Whether all queries of two runs are the same, with the same entities in their pools."""
    ours, theirs = _full(first), _full(other)
    return ours.keys() == theirs.keys() and all(_pool(ours[k]) == _pool(theirs[k]) for k in ours)


def _full(run: TestedRun) -> dict[str, Outcome]:
    return by_method(run.outcomes).get("full", {})


def _pool(outcome: Outcome) -> frozenset[str]:
    return frozenset(outcome.ranking or ())
