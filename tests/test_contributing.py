"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import CONF, ROOT, TESTS
from PIL import Image
from recipes.family_toy_vl import FAMILY, ToyConfig
from tiny_policy import build_tiny_policy
from transformers import Qwen2_5_VLForConditionalGeneration

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}


def recipe(title: str) -> str:
    """The text of one recipe."""
    found = re.search(rf"^\*\*{title}\*\*: (.*?)(?=^\*\*|^## |\Z)", PAGE, re.M | re.S)
    assert found, f"CONTRIBUTING.md has no recipe {title!r}"
    return found[1]


def follow(title: str, package: Path) -> None:
    """Adds the recipe's one new file and changes its one line, in a copy of the package."""
    text = recipe(title)
    (new,) = re.findall(r"new file\s`([^`]+)`", text)
    (registry,) = re.findall(r"one line in\s`([^`]+)`", text)
    ((old, line),) = re.findall(r"```diff\n-(.+)\n\+(.+)\n```", text)
    assert not (package.parent / new).exists()
    shutil.copy(TESTS / "recipes" / Path(new).name, package.parent / new)
    path = package.parent / registry
    before = path.read_text()
    assert before.count(f"{old}\n") == 1, f"{registry} does not hold the line {old!r}"
    path.unlink()  # a link to the real one
    path.write_text(before.replace(f"{old}\n", f"{line}\n"))


def toy_files(folder: Path) -> Path:
    """Three entities of one colour each, and one query about each in every split."""
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (64, 48), colour).save(folder / f"{name}.png")
    rows = [f"{name}.png\twhich colour?\t{name}\n" for name in COLOURS]
    for split in ("train", "val", "test"):
        (folder / f"{split}.tsv").write_text("".join(rows))
    (folder / "entities.tsv").write_text("".join(f"{name}\t{name}.png\n" for name in COLOURS))
    return folder


def regionr1(folder: Path, *arguments: object) -> str:
    """Runs the command line of the copy; returns what it printed."""
    paths = [str(folder), str(TESTS / "recipes"), str(TESTS)]
    done = subprocess.run(
        [sys.executable, "-m", "regionr1", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_data_set_scorer_and_family_by_their_recipes(workspace: Path) -> None:
    package = Path(shutil.copytree(ROOT / "regionr1", workspace / "regionr1", copy_function=link))
    follow("A data set", package)
    follow("A VLM family", package)
    root = toy_files(workspace / "files")
    (class_path,) = re.findall(r"`class_path: (\S+)`", recipe("A scorer"))
    (workspace / "toy.yaml").write_text(json.dumps({"class_path": class_path}))
    made = ("--source", "toy", "--root", root, "--scorer", "toy.yaml")
    assert "toy" in regionr1(workspace, "data", "inspect", *made[:4])
    regionr1(workspace, "data", "shards", *made, "--out", "shards", "--k", 3)
    index = json.loads((workspace / "shards" / "test.index.json").read_text())
    assert index["scorer_fingerprint"] == "toy-127" and index["dim"] == 3
    assert index["n_samples"] == len(COLOURS)
    configs = [part for name in ("base", "builtin", "quickstart") for part in ("-c", config(name))]
    options = [
        *("--data.shards", "shards", "--data.batch_size", 2, "--model.group_size", 2),
        *("--model.policy.init_args.model", toy_policy(workspace / "policy")),
        *("--model.policy.init_args.max_new_tokens", 40),
        *("--model.reranker.init_args.scorer", "toy.yaml", "--trainer.fast_dev_run", "true"),
    ]
    regionr1(workspace, "fit", *configs, *options)


def config(name: str) -> str:
    return str(CONF / f"{name}.yaml")


def toy_policy(folder: Path) -> Path:
    """A policy of the toy family: the weights of a tiny Qwen2.5-VL, saved by the toy's class."""
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(build_tiny_policy(folder))
    model = FAMILY.model_class(ToyConfig(**plain.config.to_dict() | {"model_type": "toy_vl"}))
    model.load_state_dict(plain.state_dict())
    model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "toy_vl"
    return folder


def link(source: str, target: str) -> None:
    Path(target).symlink_to(source)
