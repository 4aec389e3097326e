"""Tables and curves over seeds."""

import re
from pathlib import Path

from PIL import Image

from regionr1.evaluation.behaviour import Behaviour
from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.gain import PARTS
from regionr1.evaluation.seeds import (
    DECISION_CURVES,
    METHODS,
    POLICY_METRICS,
    SeedRun,
    draw_curves,
    seeds_table,
)


def run(policy: float, reference: float | None = 0.8) -> SeedRun:
    values = {"full": 0.2, "policy": policy, "reference": reference, "warm_start": 0.25}
    test = {
        method: {name: None for name in POLICY_METRICS} | {"cond_recall_at_1": values.get(method)}
        for method in METHODS
    }
    curve, p_full = [(16, 0.3), (32, policy)], [(0, 0.9), (16, 1 - policy)]
    part = {"cond_recall_at_1": Interval(policy - 0.2, policy - 0.3, policy)}
    gain = dict.fromkeys(PARTS, part)
    behaviour: Behaviour = {
        "auroc": policy, "wording_auroc": 0.7, "regret": 0.02, "of_better": 0.9,
        "crop_rates": {"wide": 0.1, "wants crop": 0.8},
        "above": {"boxes": part["cond_recall_at_1"]},
    }  # fmt: skip
    return {
        "fit_s": 61.0, "curve": curve, "p_full": p_full, "test": test, "gain": gain,
        "behaviour": behaviour,
        "decision_curves": {name: curve for name in DECISION_CURVES},
    }  # fmt: skip


def unpadded(text: str) -> list[str]:
    """The lines of a table without the spaces that line up its columns."""
    return [re.sub(" +", " ", line) for line in text.splitlines()]


def test_table_shows_mean_spread_and_every_seed() -> None:
    text = seeds_table({"balanced": {0: run(0.6), 3: run(0.4)}, "on_policy": {0: run(0.3)}})
    lines = unpadded(text)
    assert lines[0] == "| test CondR@1, balanced | mean ± sd | seed 0 | seed 3 |"
    assert "| policy | 0.500 ± 0.141 | 0.600 | 0.400 |" in lines
    assert "| policy / full | 2.500 ± 0.707 | 3.000 | 2.000 |" in lines
    assert "| policy / reference | 0.625 ± 0.177 | 0.750 | 0.500 |" in lines
    assert "| centre | - | - | - |" in lines
    assert "| on_policy | 0.300 | - | - | - | - | - | - | 61 s |" in lines
    assert lines[-2] == "| balanced | 0.300 ± 0.000 | 0.500 ± 0.141 | 16, never |"
    assert lines[-1] == "| on_policy | 0.300 | 0.300 | never |"


def test_the_gain_is_told_apart_over_seeds_and_by_seed() -> None:
    text = seeds_table({"exact": {0: run(0.6), 3: run(0.4)}})
    # gains 0.4 and 0.2: mean 0.3, sd 0.1414, and t(0.975, 1 degree) = 12.706
    over = "+0.300 [-0.971, +1.571]"
    (line,) = (line for line in unpadded(text) if line.startswith("| decision:"))
    assert line.endswith(f"| {over} | +0.400 [+0.300, +0.600] | +0.200 [+0.100, +0.400] |")


def test_decisions_are_told_over_seeds_and_by_seed() -> None:
    lines = unpadded(seeds_table({"exact": {0: run(0.6), 3: run(0.4)}}))
    auroc = 'AUROC of P(REGION) against "the crop ranks better"'
    assert f"| {auroc} | 0.500 ± 0.141 | 0.600 | 0.400 |" in lines
    assert "| crop rate, wide | 0.100 ± 0.000 | 0.100 | 0.100 |" in lines
    (boxes,) = (line for line in lines if line.startswith("| always crop, trained - untrained"))
    assert boxes.endswith("| +0.400 [+0.300, +0.600] | +0.200 [+0.100, +0.400] |")
    assert not any(line.startswith("| CondR@1 above always full") for line in lines)


def test_variants_stand_side_by_side() -> None:
    lines = unpadded(seeds_table({"exact": {0: run(0.6), 3: run(0.4)}, "paper": {0: run(0.3)}}))
    told = "0.700 ± 0.000 | 0.020 ± 0.000 | 0.900 ± 0.000 | 0.800 ± 0.000 | - | 0.300 ± 0.141 | 2 |"
    assert f"| exact | 0.500 ± 0.141 | 0.500 ± 0.141 | {told}" in lines
    assert "| paper | 0.300 | 0.300 | 0.700 | 0.020 | 0.900 | 0.800 | - | 0.100 | 1 |" in lines


def test_variants_are_compared_seed_by_seed() -> None:
    def runs(*policies: float) -> dict[int, SeedRun]:
        found = {seed: run(value) for seed, value in enumerate(policies)}
        for one in found.values():
            value = one["test"]["policy"]["cond_recall_at_1"]
            one["test"]["policy"] |= {"recall_at_1": value, "mrr": value}  # type: ignore[operator]
        return found

    text = seeds_table({"exact": runs(0.7, 0.6, 0.8), "balanced": runs(0.5, 0.5, 0.7)})
    # differences 0.2, 0.1, 0.1: mean 0.1333, sd 0.0577, and t(0.975, 2 degrees) = 4.303
    cell = "+0.133 [-0.010, +0.277]"
    assert f"| exact - balanced | {cell} | {cell} | {cell} | 3 |" in unpadded(text)
    alone = seeds_table({"exact": runs(0.7), "balanced": runs(0.5, 0.5)})
    assert "paired by seed" not in alone


def test_without_reference_boxes_there_is_no_ratio() -> None:
    text = seeds_table({"balanced": {0: run(0.6, None)}})
    assert "| policy / reference | - | - |" in unpadded(text)


def test_curves_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    runs = {"balanced": {0: run(0.6), 1: run(0.5)}, "on_policy": {0: run(0.3)}}
    draw_curves(runs, {"full": 0.2, "warm_start": 0.25, "reference": None}, path)
    with Image.open(path) as image:
        pixels = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or []}
    assert (217, 108, 0) in pixels and (42, 111, 176) in pixels
    draw_curves({"balanced": {0: run(0.6)}}, {}, path)
