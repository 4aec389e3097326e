"""Each re-ranker on each pool, which is the fair way to set systems beside each other.

A re-ranker that has the better retriever in front of it looks better than it is. So the columns are
pools, the rows re-rankers, and a cell is told only where that re-ranker ordered that very pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.comparable import same_pools
from regionr1.evaluation.external import external_outcome
from regionr1.evaluation.markdown import interval_cell, markdown_table
from regionr1.evaluation.settings import flat
from regionr1.evaluation.table import MethodRow, Outcome, by_method, metrics_table
from regionr1.evaluation.tested import TestedRun
from regionr1.evaluation.variants import Setting

METHODS = {"full": "full image", "policy": "policy"}


@dataclass
class Pool:
    """The candidates of every query, as retrieved.

    Attributes:
        name: Where the first run found them.
        run: That run.
        settings: Those that ordered these pools, with whatever scorer.
    """

    name: str
    run: TestedRun
    settings: list[Setting]


def pools_of(groups: Sequence[Sequence[Setting]]) -> list[Pool]:
    """The pools of settings, in order of first appearance.

    Args:
        groups: Settings whose figures may stand in one table, together.
    """
    pools: list[Pool] = []
    for group in groups:
        run = group[0].runs[0]
        for pool in pools:
            if same_pools(pool.run, run):
                pool.settings += group
                break
        else:
            pools.append(Pool(str(flat(run.config).get("data.shards", run.name)), run, [*group]))
    return pools


def scorer_of(run: TestedRun) -> str:
    """What a run's config calls its scorer."""
    return str(flat(run.config).get("model.reranker.scorer", "unknown"))


def pool_table(pools: Sequence[Pool], external: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """CondR@1 and R@1 of each re-ranker on each pool, with the queries they rest on.

    Args:
        pools: At least one.
        external: Rankings of other systems by their name and data_id.
    """
    cells: dict[str, dict[int, str]] = {}
    for column, pool in enumerate(pools):
        for setting in pool.settings:
            named = {row.method: row for row in setting.rows()}
            for method, words in METHODS.items():
                if method in named:
                    by = f"{words}{'' if method == 'full' else f' {setting.name}'}"
                    name = f"{by}, scorer {scorer_of(setting.runs[0])}"
                    cells.setdefault(name, {})[column] = _cell(named[method])
        full = by_method(pool.run.outcomes)["full"]
        for name, rankings in external.items():
            found = _on_pool(name, rankings, list(full.values()))
            if found:
                (row,) = metrics_table(found, n_total=len(full))
                cells.setdefault(name, {})[column] = _cell(row)
    rows = [
        [name, *(columns.get(column, "-") for column in range(len(pools)))]
        for name, columns in cells.items()
    ]
    heads = [f"pool {pool.name}" for pool in pools]
    return markdown_table(["re-ranker: CondR@1 / R@1 (N, skipped)", *heads], rows)


def _on_pool(
    name: str, rankings: Mapping[str, Sequence[str]], full: Sequence[Outcome]
) -> list[Outcome]:
    """Another system's order of a pool, of the queries for which it orders the whole of it."""
    found = []
    for query in full:
        ranking = rankings.get(query.data_id or "", ())
        pool = set(query.ranking or ())
        if pool and pool <= set(ranking):
            ordered = external_outcome(name, [page for page in ranking if page in pool], query)
            found.append(replace(ordered, pool_has_positive=query.pool_has_positive))
    return found


def _cell(row: MethodRow) -> str:
    values = (row.metrics[name] for name in ("cond_recall_at_1", "recall_at_1"))
    shown = " / ".join(interval_cell(Interval(value.value, None, None)) for value in values)
    return f"{shown} ({row.n}, {row.n_skipped})"
