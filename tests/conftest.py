"""Shared fixtures."""

import csv
import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def migrated_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its schema in place: migrating one takes seconds, copying it none."""
    from regionr1.tracking.logger import prepare_store

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    prepare_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def workspace(tmp_path: Path, migrated_db: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working folder with an empty, migrated mlruns/mlflow.db, entered for the test."""
    (tmp_path / "mlruns").mkdir()
    shutil.copy(migrated_db, tmp_path / "mlruns" / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained policy of a few thousand weights."""
    from tiny_policy import build_tiny_policy

    return build_tiny_policy(tmp_path_factory.mktemp("tiny-policy"))


@pytest.fixture(scope="session")
def builtin_benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small built-in benchmark as written; copy it before changing anything."""
    from regionr1.builtin.benchmark import write_benchmark

    out = tmp_path_factory.mktemp("builtin") / "raw"
    write_benchmark(out, train=24, val=8, test=10)
    return out


@pytest.fixture(scope="session")
def small_benchmark(builtin_benchmark: Path) -> Path:
    """The same with a knowledge base of about 60 pages, which is embedded quickly."""
    out = builtin_benchmark.with_name("small")
    shutil.copytree(builtin_benchmark, out)
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
    return out


@pytest.fixture(scope="session")
def builtin_shards(small_benchmark: Path) -> Path:
    """Its shards by the scorer `pixels`, which is quick; copy them before changing anything."""
    from regionr1.cli.data import shards

    out = small_benchmark.with_name("shards")
    shards(small_benchmark, out, scorer="pixels", k=60)
    return out
