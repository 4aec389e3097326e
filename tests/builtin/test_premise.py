"""The premise of the built-in benchmark, from hand-made measurements and the whole way through."""

import json

import numpy as np
import pytest
import torch

from regionr1.builtin.premise import Check, Measured, builtin_premise, check, probe
from regionr1.errors import UserError


def measured(n: int = 80, keyword: bool = False, seed: int = 0) -> Measured:
    """Half of the queries want a crop; a state tells which, and the words only if asked to."""
    rng = np.random.default_rng(seed)
    wants = np.arange(n) % 2 == 0
    hidden = torch.from_numpy(rng.normal(0, 1, (n, 5))).float()
    hidden[:, 2] += 3 * torch.from_numpy(wants).float()
    words = np.where(wants, "where?", "what?") if keyword else rng.choice(["where?", "what?"], n)
    return Measured(
        kinds=["thing_clear" if want else "place_wide, unseen style" for want in wants],
        questions=words.tolist(),
        answerable=np.ones(n, bool),
        ranks={
            "full": np.where(wants, 4.0, 1.0),
            "reference": np.ones(n),
            "salient": np.full(n, 5.0),
            "untrained": np.where(wants, np.arange(n) % 4 + 1, 3.0),
        },
        p_region=rng.uniform(0, 1, n),
        hidden=hidden,
    )


def test_the_numbers_are_those_of_the_hand_made_queries() -> None:
    found = {split: measured(seed=seed) for seed, split in enumerate(("train", "val", "test"))}
    values = {c.name: c.value for c in check(found)}
    assert values["test: CondR@1, always the full image"] == 0.5
    assert values["test: CondR@1, always the untrained crop"] == 0.25
    assert values["test: better of the two, above both"] == 0.25
    assert values["test: CondR@1, the view that tells"] == 1.0
    assert values["test: full image right, what stands out wrong"] == 0.5
    assert values["train: room for boxes where a crop is wanted"] == 0.5
    assert values["val: AUROC of a probe on the deciding state"] > 0.9
    assert values["val: AUROC of a probe on the question's words"] < 0.75


def test_a_keyword_is_found_out() -> None:
    found = {s: measured(keyword=True, seed=n) for n, s in enumerate(("train", "val", "test"))}
    (words,) = (c for c in check(found) if "words" in c.name)
    assert words.value == 1.0 and not words.met and "MISSED" in str(words)


def test_a_probe_on_noise_tells_nothing() -> None:
    train, val = measured(400, seed=3), measured(400, seed=4)
    noise = [torch.randn(400, 4, generator=torch.Generator().manual_seed(n)) for n in (0, 1)]
    assert abs(probe(noise, train, val) - 0.5) < 0.1


def test_ties_and_pools_without_a_positive_are_not_told() -> None:
    one = measured(4)
    one.ranks["untrained"][0] = one.ranks["full"][0]
    one.answerable[1] = False
    index, better = one.told
    assert index.tolist() == [2, 3] and better.tolist() == [True, False]
    assert Check("x", 0.5, high=0.4).met is False and Check("x", 0.5, 0.4, 0.6).met is True


def test_the_numbers_are_printed_written_and_may_be_required(
    small_benchmark, builtin_shards, tiny_policy, tmp_path, capsys
) -> None:
    """An untrained policy of a few weights and raw pixels: nothing of it holds."""
    options = {"policy": str(tiny_policy), "scorer": "pixels", "queries": 12}
    out = tmp_path / "premise.json"
    builtin_premise(builtin_shards, small_benchmark, out=out, **options)
    printed = capsys.readouterr().out
    assert all(name in printed for name in json.loads(out.read_text())) and "MISSED" in printed
    with pytest.raises(UserError, match="the premise does not hold: .*the view that tells"):
        builtin_premise(builtin_shards, small_benchmark, strict=True, **options)
