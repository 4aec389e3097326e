"""Which runs may share a table: same queries, pools and scorer."""

import math

import pytest

from regionr1.errors import UserError
from regionr1.evaluation.comparable import alike, differing, same_pools
from regionr1.evaluation.compare import compare
from regionr1.evaluation.pool_table import pool_table, pools_of
from regionr1.evaluation.table import Outcome
from regionr1.evaluation.tested import TestedRun
from regionr1.evaluation.variants import Setting, settings_of, settings_table, tell_apart

TestedRun.__test__ = False


def a_run(name: str, keys="abcd", ranking=("x", "y", "z"), seed: int = 0, group: int = 8,
          right: str = "x", scorer: str = "builtin") -> TestedRun:  # fmt: skip
    """Every query ranked alike by full image and policy, except that the policy puts x first."""
    config = {
        "seed_everything": seed,
        "model": {"group_size": group, "reranker": {"init_args": {"scorer": scorer}}},
        "data": {"shards": "shards-" + "".join(sorted(ranking))},
    }
    outcomes = []
    for key in keys:
        for method, order in (("full", list(ranking)), ("policy", sorted(ranking))):
            rank = order.index(right) + 1.0 if right in order else math.inf
            outcomes.append(Outcome(key, key, method, order, [right], right in order, rank, 1.0,
                                    "FULL", data_id=f"id-{key}"))  # fmt: skip
    return TestedRun(name, config, outcomes)


def test_runs_of_the_same_data_pools_and_scorer_stand_together() -> None:
    runs = [a_run("a"), a_run("b", seed=1), a_run("c", ranking=("y", "x", "z"), scorer="clip"),
            a_run("d", ranking=("x", "y", "w")), a_run("e", keys="abc")]  # fmt: skip
    assert [[run.name for run in group] for group in alike(runs)] == [
        ["a", "b"],
        ["c"],
        ["d"],
        ["e"],
    ]
    assert differing(runs[0], runs[1]) == []
    assert "different scorers" in differing(runs[0], runs[2])[0] and same_pools(runs[0], runs[2])
    assert "different pools for 4 of 4 queries" in differing(runs[0], runs[3])[0]
    assert "they share 3" in differing(runs[0], runs[4])[0]
    assert "different right entities for 4" in differing(runs[0], a_run("f", right="y"))[0]
    assert "Warning: a and d have different pools" in compare([runs[0], runs[3]], resamples=5)


def test_different_data_and_empty_splits_are_one_sentence() -> None:
    with pytest.raises(UserError, match="a and b were tested on different data, without one query"):
        alike([a_run("a"), a_run("b", keys="xyz")])
    with pytest.raises(UserError, match="b was tested on an empty split"):
        alike([a_run("a"), TestedRun("b", {}, [])])


def test_settings_are_named_by_what_their_runs_share() -> None:
    runs = [a_run("exact-seed0"), a_run("exact-seed1", seed=1), a_run("other", group=4)]
    found = settings_of(runs)
    assert [setting.name for setting in found] == ["exact, 2 seeds", "other"]
    assert settings_of([a_run("p"), a_run("q", seed=1)])[0].name == "p, 2 seeds"
    trials = [a_run(f"sweep-{n}", group=group, seed=n % 2) for n, group in enumerate((4, 4, 8, 8))]
    assert [s.name for s in settings_of(trials)] == ["group_size=4", "group_size=8"]
    again = settings_of([a_run("exact-seed0-cnn"), a_run("exact-seed1-cnn", seed=1)])
    tell_apart([*found, *again], lambda run: run.name)
    names = ["exact, 2 seeds, exact-seed0", "other", "exact, 2 seeds, exact-seed0-cnn"]
    assert [setting.name for setting in (*found, *again)] == names
    found = settings_of(runs)
    table = settings_table(found, "policy")
    assert "CondR@1 minus exact, 2 seeds" in table
    assert len(table.splitlines()) == 4 and "+0.000 [+0.000, +0.000]" in table


def test_each_re_ranker_stands_under_the_pool_that_it_ordered() -> None:
    groups = [[Setting("a", [a_run("a")])],
              [Setting("b", [a_run("b", ranking=("y", "x", "z"), scorer="clip")])],
              [Setting("c", [a_run("c", ranking=("x", "v", "w"))])]]  # fmt: skip
    pools = pools_of(groups)
    assert [pool.name for pool in pools] == ["shards-xyz", "shards-vwx"]
    theirs = {f"id-{key}": ["z", "y", "x", "extra"] for key in "abc"}
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]]
        for line in pool_table(pools, {"theirs": theirs}).splitlines()[2:]
    }
    assert rows["full image, scorer clip"] == ["0.000 / 0.000 (4, 0)", "-"]
    assert rows["full image, scorer builtin"] == ["1.000 / 1.000 (4, 0)", "1.000 / 1.000 (4, 0)"]
    assert rows["policy c, scorer builtin"][0] == "-"
    assert rows["theirs"] == ["0.000 / 0.000 (3, 1)", "-"], "it never saw v and w"
