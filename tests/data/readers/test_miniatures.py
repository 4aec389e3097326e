"""Miniatures of every published layout, from folder to shards to a step of fit and the test table,
with other policies and scorers than the built-in ones, saved as hub folders.
"""

import json
from pathlib import Path

import pytest
from evqa_files import make_evqa, url_of
from hub_models import save_encoder
from infoseek_files import make_infoseek
from own_files import make_own
from quickstart_run import options, runs
from tiny_policy import build_tiny_policy

from regionr1.cli.main import main


def scorer_file(folder: Path, kind: str, **more: object) -> Path:
    """A scorer's YAML (JSON is YAML too) beside its weights."""
    arguments = {"model": str(save_encoder(folder / kind, kind)), **more}
    path = folder / f"{kind}.yaml"
    path.write_text(
        json.dumps({"class_path": "regionr1.scorers.hub.HubScorer", "init_args": arguments})
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "policy", "scorer", "more"),
    [
        ("evqa", "qwen3_vl", "clip", {"text": "weighted"}),
        ("official", "qwen2_5_vl", "siglip", {"fit": "squash"}),
        ("echosight", "qwen2_vl", "eva", {"trust_remote_code": True, "text": "sum"}),
        ("own", "qwen2_5_vl", "siglip2", {}),
    ],
)
def test_folder_to_test_table(workspace, layout, policy, scorer, more, capsys) -> None:
    root, source = workspace / "data", "infoseek"
    if layout != "own":
        root.mkdir()
    results: list[object] = []
    if layout == "evqa":
        make_evqa(root).write()
        source = "evqa"
        pages = {"retrieved_entries": [url_of(n) for n in range(5)]}
        path = workspace / "echosight.json"
        path.write_text(json.dumps({f"E-VQA_{n}": pages for n in range(5)}))
        results = ["--results", path]
    elif layout == "own":
        make_own(root)
        source = "own"
    else:
        make_infoseek(root, layout == "echosight", (30, 6))
    made_by = scorer_file(workspace, scorer, **more)
    prepare = ["data", "prepare", "--root", root, "--source", source, "--out", "shards",
               "--work", "work", "--scorer", made_by, "--k", 4]  # fmt: skip
    assert main([*map(str, prepare)]) == 0
    if results:  # the test split again, with another system's candidates
        again = [*prepare, "--splits", '["test"]', "--overwrite", "true", *results]
        assert main([*map(str, again)]) == 0
    folder = build_tiny_policy(workspace / "policy", family=policy)
    assert main(["fit", *options(Path("shards"), folder, 1, str(made_by))]) == 0
    assert main(["test", *options(Path("shards"), folder, 1, str(made_by))]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ("policy_region", "better_of", "CondR@1"))
    assert ("source inaturalist: policy" in table) == (layout == "evqa")
    assert ("subset unseen_entity: policy" in table) == (layout in ("official", "echosight"))
    _, found = runs(workspace)
    assert len(found) == 2 and {run.info.status for run in found} == {"FINISHED"}
