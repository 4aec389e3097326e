"""Comparing runs: differences of configs, paired intervals, verdicts, seeds."""

import math
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
from tiny_command import CONFIG, run

from regionr1.cli.main import main
from regionr1.errors import UserError
from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.compare import (
    compare,
    config_difference,
    differences,
    seed_interval,
    verdict,
)
from regionr1.evaluation.outcome_file import OUTCOMES, read_outcomes, write_outcomes
from regionr1.evaluation.table import Outcome
from regionr1.evaluation.tested import TestedRun

TestedRun.__test__ = False  # no test class, whatever its name


def outcomes(hits: list[bool], per_entity: int = 4) -> list[Outcome]:
    return [
        Outcome(
            key=f"q{i}",
            cluster=f"e{i // per_entity}",
            method="policy",
            ranking=["right", "wrong"] if hit else ["wrong", "right"],
            gold_ids=["right"],
            pool_has_positive=True,
            rank=1.0 if hit else 2.0,
            ndcg=1.0 if hit else 0.6,
            decision="FULL",
        )
        for i, hit in enumerate(hits)
    ]


def config(group_size: int = 8, seed: int = 0) -> dict:
    policy = {"class_path": "regionr1.policy.crop_policy.CropPolicy", "init_args": {"lora_rank": 8}}
    logger = {"class_path": "x", "init_args": {"run_name": f"{group_size}-{seed}"}}
    return {
        "seed_everything": seed,
        "trainer": {"logger": logger, "max_steps": 3},
        "model": {"group_size": group_size, "policy": policy, "seed": seed},
    }


def a_run(name: str, hits: list[bool], **settings: int) -> TestedRun:
    return TestedRun(name, config(**settings), outcomes(hits))


def test_only_what_matters_differs() -> None:
    runs = [a_run("a", [True]), a_run("b", [True], group_size=4)]
    assert config_difference(runs) == {"model.group_size": [8, 4]}


def test_a_clear_difference_and_one_within_noise() -> None:
    rng = np.random.default_rng(0)
    base = [bool(x) for x in rng.random(200) < 0.4]
    better = [hit or i % 3 == 0 for i, hit in enumerate(base)]
    noise = list(base)
    for i in range(0, 200, 20):
        noise[i] = not noise[i]
    runs = [a_run("base", base), a_run("better", better), a_run("noise", noise)]
    found = differences(runs, "policy")
    gain = found["better"]["recall_at_1"]
    assert gain.value == pytest.approx((sum(better) - sum(base)) / 200)
    assert verdict(gain) == "higher" and verdict(found["noise"]["recall_at_1"]) == "within noise"
    assert verdict(differences(runs[1::-1], "policy")["base"]["recall_at_1"]) == "lower"
    assert verdict(Interval(None, None, None)) == "undefined"
    text = compare(runs)
    assert "The configs are equal." in text and "within noise" in text and "higher" in text
    assert "corrected by Holm for 2 runs" in text and "Warning" not in text
    assert "Holm" not in compare(runs[:2])


def test_entities_and_not_queries_are_resampled() -> None:
    """All queries of an entity move together, so four of them tell no more than one."""
    gains = [i // 4 % 2 == 0 for i in range(80)]
    runs = [a_run("a", [False] * 80), a_run("b", gains)]
    together = differences(runs, "policy")["b"]["recall_at_1"]
    apart = [TestedRun(run.name, run.config, outcomes([o.rank == 1 for o in run.outcomes], 1))
             for run in runs]  # fmt: skip
    alone = differences(apart, "policy")["b"]["recall_at_1"]
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_seeds_give_mean_and_interval() -> None:
    found = seed_interval([0.4, 0.5, 0.6])
    half = 4.3027 * 0.1 / math.sqrt(3)
    assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-5)
    assert seed_interval([0.4]) == (0.4, None, None)
    # Tables of Student's t give 2.131 for 15 degrees of freedom and 2.262 for 9.
    spread = statistics.stdev([0.0, 1.0] * 8) / 4
    assert seed_interval([0.0, 1.0] * 8).low == pytest.approx(0.5 - 2.131 * spread, abs=1e-3)
    spread = statistics.stdev([0.0, 1.0] * 5) / math.sqrt(10)
    assert seed_interval([0.0, 1.0] * 5).high == pytest.approx(0.5 + 2.262 * spread, abs=1e-3)
    hits = [[i % 5 < n for i in range(40)] for n in (1, 2, 3)]
    runs = [a_run(f"s{n}", h, seed=n) for n, h in enumerate(hits)]
    text = re.sub(" +", " ", compare(runs))
    assert "| 3 seeds, policy | mean" in text
    row = next(line for line in text.splitlines() if line.startswith("| R@1 |"))
    assert "0.400" in row and "0.200 | 0.400 | 0.600" in row


def test_what_cannot_be_compared_is_said() -> None:
    a, b = a_run("a", [True]), a_run("b", [True])
    with pytest.raises(UserError, match="b was not tested with method 'reference'; it has policy"):
        differences([TestedRun("a", {}, [*a.outcomes, *_as("reference", a)]), b], "reference")
    b.outcomes[0].key = "other"
    with pytest.raises(UserError, match="share no query.*same data"):
        differences([a, b], "policy")


def _as(method: str, run: TestedRun) -> list[Outcome]:
    return [Outcome(**{**vars(o), "method": method}) for o in run.outcomes]


def test_outcomes_survive_a_file(tmp_path: Path) -> None:
    written = outcomes([True, False])
    written[1] = Outcome("q1", "e", "policy", None, ["right"], False, math.inf, 0.0, "INVALID")
    write_outcomes(tmp_path / OUTCOMES, written)
    assert read_outcomes(tmp_path / OUTCOMES) == written
    (tmp_path / OUTCOMES).write_bytes((tmp_path / OUTCOMES).read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged"):
        read_outcomes(tmp_path / OUTCOMES)


def test_the_command(workspace: Path, capsys) -> None:
    (workspace / "run.yaml").write_text(CONFIG)
    named = "--trainer.logger.init_args.run_name"
    for name, size in (("small", 4), ("large", 8)):
        run("fit", "-c", "run.yaml", "--model.group_size", size, named, name)
    assert main(["compare", "small", "large"]) == 2
    (command,) = re.findall("`regionr1 (test.*)`", capsys.readouterr().err)
    run(*command.split())
    run("test", "--resume", "last")
    capsys.readouterr()
    assert main(["compare", "small", "large", "--resamples", "50"]) == 0
    out = re.sub(" +", " ", capsys.readouterr().out)
    assert "| model.group_size | 4 | 8 |" in out
    assert "large - small" in out and "within noise" in out
    for args, words in (
        (["small"], "at least two"),
        (["small", "small"], "at least two"),
        (["small", "gone"], "no run 'gone'"),
        (["small", "large", "--method", "reference"], "it has full, policy"),
    ):
        assert main(["compare", *args]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
