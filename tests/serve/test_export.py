"""A trained policy leaves the platform: folder, card, MLflow model, server."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from PIL import Image
from quickstart_run import options, runs
from written_policy import encoded

from regionr1 import RegionReranker
from regionr1.cli.main import main
from regionr1.errors import UserError
from regionr1.policy.adapter_folder import settings_of, write_settings
from regionr1.scorers.builtin import PixelScorer
from regionr1.scorers.load import load_scorer
from regionr1.serve.model_card import model_card

ELSEWHERE = """
import json, sys
from PIL import Image
from regionr1 import RegionReranker
reranker = RegionReranker.from_pretrained(sys.argv[1])
crop = reranker.crop(Image.new("RGB", (90, 70), "green"), "What is this?")
print(json.dumps([crop.decision, crop.p_full, reranker.reranker.fingerprint()]))
"""


def config(policy: dict, scorer: object) -> dict:
    return {
        "model": {
            "policy": {"init_args": {"model": "builtin", "revision": None, **policy}},
            "reranker": {"init_args": {"scorer": scorer, "remember": 3}},
            "crop_prior": {"padding": 0.1},
        }
    }


def test_settings_name_no_place_of_this_checkout(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "pad").write_text("")  # a file that has the name of an option's value
    (tmp_path / "clip.yaml").write_text(
        "class_path: regionr1.scorers.hub.HubScorer\n"
        "init_args: {model: weights, fit: pad, processor: openai/clip}\n"
    )
    shipped = Path(__file__).parents[2] / "regionr1" / "builtin" / "policy"
    found = settings_of(config({"model": str(shipped), "adapter": "before"}, "clip.yaml"))
    assert found["policy"] == {"model": "builtin", "revision": None}
    assert found["reranker"]["scorer"] == {
        "class_path": "regionr1.scorers.hub.HubScorer",
        "init_args": {
            "model": str(tmp_path / "weights"), "fit": "pad", "processor": "openai/clip"
        },
    }  # fmt: skip
    for kept in ("builtin", "gone.yaml", "gone.safetensors"):
        assert settings_of(config({}, kept))["reranker"]["scorer"] == kept


def test_a_scorer_of_ones_own_weights_travels_with_the_adapter(tmp_path, monkeypatch) -> None:
    shipped = Path(__file__).parents[2] / "regionr1" / "builtin" / "scorer.safetensors"
    write_settings(tmp_path, config({}, str(shipped)))
    assert (tmp_path / "scorer.safetensors").read_bytes() == shipped.read_bytes()
    loaded = []
    monkeypatch.setattr(
        "regionr1.serve.region_reranker.CropPolicy",
        lambda **settings: SimpleNamespace(to=lambda device: SimpleNamespace(eval=lambda: None)),
    )
    monkeypatch.setattr(
        "regionr1.serve.region_reranker.RewardReranker",
        lambda scorer: (
            loaded.append(scorer)
            or SimpleNamespace(to=lambda device: SimpleNamespace(eval=lambda: None))
        ),
    )
    RegionReranker.from_pretrained(tmp_path)
    RegionReranker.from_pretrained(tmp_path, scorer="pixels")
    RegionReranker.from_pretrained(tmp_path, policy_only=True)
    assert loaded == [str(tmp_path / "scorer.safetensors"), "pixels"]


def test_a_scorer_may_be_described_inline() -> None:
    assert isinstance(
        load_scorer({"class_path": "regionr1.scorers.builtin.PixelScorer"}), PixelScorer
    )
    with pytest.raises(UserError, match="the scorer: .*nobody"):
        load_scorer({"class_path": "nobody.Nothing"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "has no regionr1.json; give the folder `adapter`"),
        ("{}", "is damaged"),
        ("[", "is damaged"),
        (
            json.dumps({"policy": {"model": "/nobody/has/this"}, "reranker": {"scorer": "pixels"},
                        "crop_prior": {}}),
            "base weights were at /nobody/has/this .* say where they are with model=",
        ),
    ],
)  # fmt: skip
def test_folders_that_are_refused(tmp_path, text, words) -> None:
    if text is not None:
        (tmp_path / "regionr1.json").write_text(text)
    with pytest.raises(UserError, match=words):
        RegionReranker.from_pretrained(tmp_path)


def test_the_card_of_an_untested_run_says_so() -> None:
    run = SimpleNamespace(
        info=SimpleNamespace(run_name="quiet-owl", run_id="abc"),
        data=SimpleNamespace(tags={"data.folder": "/home/me/secret/shards"}),
    )
    settings = {"policy": {"model": "builtin", "revision": None}, "reranker": {"scorer": "pixels"}}
    card = model_card(run, settings, {"model": {}, "trainer": {}}, None)
    assert "It was not tested: `regionr1 test --resume abc`" in card
    assert "`shards`" in card and "/home" not in card


@pytest.mark.slow
def test_export_move_load_and_serve(workspace, builtin_shards, tiny_policy, capsys) -> None:
    scorer = workspace / "clone" / "scorer.yaml"
    scorer.parent.mkdir()
    scorer.write_text("class_path: regionr1.scorers.builtin.PixelScorer\n")
    args = options(builtin_shards, tiny_policy, steps=1, scorer=str(scorer))
    assert main(["fit", *args, "--model.crop_prior.padding", "0.1"]) == 0
    assert main(["test", "--resume", "last"]) == 0
    client, (run,) = runs(workspace)
    run_id = run.info.run_id
    old = os.umask(0o027)
    try:
        assert main(["export", run_id, "--out", "clone/policy", "--register", "colours"]) == 0
    finally:
        os.umask(old)
    out = capsys.readouterr().out
    assert "registered as colours 1" in out and "regionr1 serve clone/policy" in out
    after = client.get_run(run_id)
    assert after.info.end_time == run.info.end_time and after.info.status == "FINISHED"
    assert after.data.params == run.data.params
    for taken in ("clone/policy", "clone/policy/adapter_config.json"):
        assert main(["export", run_id, "--out", taken]) == 2
        assert "not an empty folder" in capsys.readouterr().err

    files = {path.name: path.stat().st_mode & 0o777 for path in Path("clone/policy").iterdir()}
    assert {"README.md", "regionr1.json", "adapter_model.safetensors"} <= files.keys()
    assert set(files.values()) == {0o640} and Path("clone/policy").stat().st_mode & 0o777 == 0o750
    card = Path("clone/policy/README.md").read_text(encoding="utf-8")
    assert re.search(r"\| always the full image +\| +\d\.\d+ \[\d\.\d+, \d\.\d+\]", card)
    assert "**this policy**" in card and run_id in card
    texts = [card, Path("clone/policy/regionr1.json").read_text(encoding="utf-8")]
    assert not any(str(workspace) in text for text in texts), "no place of the clone"

    shutil.move("clone/policy", "moved")
    shutil.rmtree("clone")
    elsewhere = Path("elsewhere")
    elsewhere.mkdir()
    moved = str(Path("moved").resolve())
    source = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, moved], cwd=elsewhere, env=environment, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    decision, p_full, fingerprint = json.loads(done.stdout.splitlines()[-1])
    assert fingerprint == PixelScorer().fingerprint()
    loaded = RegionReranker.from_pretrained("moved", policy_only=True)
    assert loaded.prior.padding == 0.1 and loaded.reranker is None
    crop = loaded.crop(Image.new("RGB", (90, 70), "green"), "What is this?")
    assert (crop.decision, crop.p_full) == (decision, pytest.approx(p_full, rel=1e-3))
    trained = RegionReranker.from_pretrained(
        workspace / "mlruns" / "regionr1" / run_id / "artifacts" / "adapter"
    )
    state = loaded.policy.adapter_state()
    assert all(torch.equal(v, state[k]) for k, v in trained.policy.adapter_state().items())

    rows = [
        {"image": encoded(Image.new("RGB", (90, 70), "green")), "question": "What is this?",
         "candidates": [encoded(Image.new("RGB", (9, 9), "red"))]},
        {"image": "%%%", "question": "What is this?", "candidates": None},
    ]  # fmt: skip
    check_answers(served(moved, rows, elsewhere, environment), crop)
    import mlflow

    model = mlflow.pyfunc.load_model(out.split("model: ")[1].split(",")[0])
    check_answers(model.predict(pd.DataFrame(rows)), crop)
    refused = model.predict(pd.DataFrame([rows[0]] * 40))
    assert len(refused) == 40 and "40, above the server's limit of 32" in refused[39]["error"]


def served(folder: str, rows: list[dict], cwd: Path, environment: dict) -> list[dict]:
    """What `regionr1 serve` in a process of its own answers."""
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "regionr1", "serve", folder, "--port", "0"],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        line = next(line for line in server.stdout if line.startswith("serving "))
        assert "http://127.0.0.1:" in line and " on cpu " in line
        body = json.dumps({"dataframe_records": rows}).encode()
        with urllib.request.urlopen(line.split()[-1], body, timeout=120) as answer:
            return json.loads(answer.read())["predictions"]
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def check_answers(answers: list[dict], crop) -> None:
    good, bad = answers
    assert good["decision"] == crop.decision and good["p_full"] == pytest.approx(
        crop.p_full, rel=1e-3
    )
    assert (good["ranking"] is None) == (crop.decision == "INVALID") and good["error"] is None
    assert bad["decision"] is None and "row 1, image is not base64" in bad["error"]
