"""Shared fixtures."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

# As in scripts/test, for a plain pytest; read when the library is imported, so before all else.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import shape_contracts
from made import Made

from regionr1.memory import keep_freed_memory

shape_contracts.install()
keep_freed_memory()  # as in every command, whichever test runs one first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests go first: begun last, one of them would keep a single core busy at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Made:
    """A folder of this test run; `pytest -n` gives each worker a base folder inside the run's."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "made"
    folder.mkdir(exist_ok=True)
    return Made(folder)


@pytest.fixture(scope="session")
def migrated_db(made: Made) -> Path:
    """An MLflow database with its schema in place: migrating one takes seconds, copying it none."""
    from regionr1.tracking.store import prepare_store

    return made.once("mlflow.db", lambda path: prepare_store(f"sqlite:///{path}"))


@pytest.fixture
def workspace(tmp_path: Path, migrated_db: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working folder with an empty, migrated mlruns/mlflow.db, entered for the test."""
    (tmp_path / "mlruns").mkdir()
    shutil.copy(migrated_db, tmp_path / "mlruns" / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_policy(made: Made) -> Path:
    """The folder of an untrained policy of a few thousand weights."""
    from tiny_policy import build_tiny_policy

    return made.once("tiny-policy", build_tiny_policy)


@pytest.fixture(scope="session")
def builtin_benchmark(made: Made) -> Path:
    """A small built-in benchmark as written; copy it before changing anything."""
    from regionr1.builtin.benchmark import write_benchmark

    return made.once("builtin", lambda out: write_benchmark(out, train=24, val=8, test=10))


@pytest.fixture(scope="session")
def small_benchmark(made: Made, builtin_benchmark: Path) -> Path:
    """The same with a knowledge base of about 60 pages, which is embedded quickly."""
    return made.once("small", lambda out: shrink(builtin_benchmark, out))


def shrink(benchmark: Path, out: Path) -> None:
    """Writes the same queries with the pages they ask for and every ninth other."""
    shutil.copytree(benchmark, out)
    asked = {
        row["wikipedia_url"]
        for split in ("train", "val", "test")
        for row in csv.DictReader((out / f"{split}.csv").open(encoding="utf-8", newline=""))
    }
    path = out / "encyclopedic_kb_wiki.json"
    pages = json.loads(path.read_text(encoding="utf-8"))
    kept = {url: page for n, (url, page) in enumerate(pages.items()) if url in asked or n % 9 == 0}
    path.write_text(json.dumps(kept), encoding="utf-8")
    images = {url for page in kept.values() for url in page["image_urls"]}
    mapping = json.loads((out / "url_to_path_mapping.json").read_text(encoding="utf-8"))
    for url, name in mapping.items():
        if url not in images:
            (out / name).unlink()


@pytest.fixture(scope="session")
def builtin_shards(made: Made, small_benchmark: Path) -> Path:
    """Its shards by the scorer `pixels`, which is quick; copy them before changing anything."""
    from regionr1.data.build.stages import Prepare

    def build(out: Path) -> object:
        return Prepare(root=small_benchmark, out=out, scorer="pixels", k=60).build()

    return made.once("shards", build)
