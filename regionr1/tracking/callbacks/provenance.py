"""What a run was made of: code, environment, data, scorer."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from regionr1.data.shards.datamodule import RerankDataModule
from regionr1.data.shards.index import ShardIndex
from regionr1.errors import redacted
from regionr1.tracking.logger import TrackingLogger
from regionr1.tracking.refusals import done_without
from regionr1.tracking.run_files import keep_text, tracker

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

ENVIRONMENT = "environment.json"


class Provenance(Callback):
    """Tags the run with commit and fingerprints, logs its data sets and the environment as JSON."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tags the run once per verb, before anything is trained or measured."""
        if not trainer.is_global_zero or not trainer.loggers:
            return
        logger = tracker(trainer)
        if logger is not None:
            from mlflow.entities import RunTag

            tags = {**git_tags(), **fingerprints(trainer, stage)}
            logger.experiment.log_batch(
                logger.run_id, tags=[RunTag(key, value) for key, value in tags.items()]
            )
            log_datasets(logger, datasets(trainer, stage))
        text = json.dumps(environment(trainer), indent=1) + "\n"
        verb = TrainerFn(stage).value
        name = ENVIRONMENT if verb == "fit" else f"environment_{verb}.json"
        keep_text(trainer, text, name)


def git_tags(folder: Path | None = None) -> dict[str, str]:
    """Commit of the source and whether it was changed since; nothing outside a repository.

    Args:
        folder: A folder of the source; None means this package's.
    """
    folder = folder or Path(__file__).parent
    commit, changed = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain")
    if commit is None or changed is None:
        return {}
    # MLflow's own tag: its UI shows the commit as the version of the source
    return {"mlflow.source.git.commit": commit, "git.dirty": "yes" if changed else "no"}


def _git(folder: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


CONTEXTS = {"train": "training", "val": "validation", "test": "testing"}
"""MLflow's words for what a split is used for."""


def datasets(trainer: Trainer, stage: str) -> list[DatasetInput]:
    """The splits that a stage reads as MLflow shows them: folder, fingerprint, queries."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    datamodule = _datamodule(trainer)
    if datamodule is None:
        return []
    folder, place = datamodule.folder, redacted(_place(datamodule))
    return [
        DatasetInput(
            Dataset(
                name=f"{Path(place).name}/{index.split}",
                digest=data_fingerprint(index),
                source_type="local" if isinstance(folder, Path) else "url",
                source=json.dumps({"uri": place}),
                profile=json.dumps(
                    {"num_rows": index.n_samples, "scorer": index.scorer_fingerprint}
                ),
            ),
            [InputTag(MLFLOW_DATASET_CONTEXT, CONTEXTS[index.split])],
        )
        for index in datamodule.indices(stage)
    ]


def log_datasets(logger: TrackingLogger, inputs: list[DatasetInput]) -> None:
    """Logs the data of a run, unless the server is away: their fingerprints are tags too."""
    if inputs:
        with done_without("its column of data sets stays empty for this run"):
            logger.experiment.log_inputs(logger.run_id, inputs)


def fingerprints(trainer: Trainer, stage: str) -> dict[str, str]:
    """Short digests of the splits this stage reads, and of the scorer they were made with."""
    datamodule = _datamodule(trainer)
    if datamodule is None:
        return {}
    indices = datamodule.indices(stage)
    return {
        **{f"data.{index.split}": data_fingerprint(index) for index in indices},
        "data.folder": _place(datamodule),
        "scorer.fingerprint": indices[0].scorer_fingerprint,
    }


def _datamodule(trainer: Trainer) -> RerankDataModule | None:
    found = getattr(trainer, "datamodule", None)
    return found if isinstance(found, RerankDataModule) else None


def _place(datamodule: RerankDataModule) -> str:
    """Where the shards are, on whatever folder the command was given in."""
    folder = datamodule.folder
    return str(folder.resolve() if isinstance(folder, Path) else folder)


def data_fingerprint(index: ShardIndex) -> str:
    """A digest of the checksums of a split's shards."""
    checksums = "".join(shard.sha256 for shard in index.shards)
    return hashlib.sha256(checksums.encode()).hexdigest()[:16]


def environment(trainer: Trainer) -> dict[str, Any]:
    """Python, packages, machine and devices."""
    packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": devices,
        "world_size": trainer.world_size,
        "precision": str(trainer.precision),
        "packages": dict(sorted(packages.items(), key=lambda item: str(item[0]).lower())),
    }
