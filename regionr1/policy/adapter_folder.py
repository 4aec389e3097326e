"""What an adapter needs beside its weights to be used again: the settings it was trained with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regionr1.files import write_text

SETTINGS = "regionr1.json"
CLASSES = {
    "policy": "regionr1.policy.crop_policy.CropPolicy",
    "reranker": "regionr1.scorers.reranker.RewardReranker",
}
TRAINING_ONLY = (
    "vision_cache",
    "self_check",
    "compile_decode",
)  # settings of the policy that use has no use for
FILES_BY_NAME = ("model", "scorer")  # settings that may be the path of something


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of policy, re-ranker and crop prior from a resolved configuration."""
    model = config["model"]
    policy = _absolute(model["policy"]["init_args"])
    return {
        "policy": {k: v for k, v in policy.items() if k not in TRAINING_ONLY},
        "reranker": _absolute(model["reranker"]["init_args"]),
        "crop_prior": dict(model["crop_prior"]),
    }


def is_portable(config: Mapping[str, Any]) -> bool:
    """Whether the configuration is of the platform's own policy and re-ranker."""
    model = config["model"]
    classes = {name: (model.get(name) or {}).get("class_path") for name in CLASSES}
    return "crop_prior" in model and classes == CLASSES


def _absolute(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with paths that hold wherever they are read from on this machine."""
    found = dict(settings)
    for name in FILES_BY_NAME:
        value = found.get(name)
        if isinstance(value, str) and Path(value).exists():
            found[name] = str(Path(value).resolve())
    return found


def write_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Adds the settings to an adapter's folder."""
    write_text(folder / SETTINGS, json.dumps(settings_of(config), indent=1) + "\n")
