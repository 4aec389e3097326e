"""What an adapter needs beside its weights to be used again: the settings it was trained with.

Nothing in the folder names a place of the machine that trained it, except where base weights lay
that came from a folder there.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regionr1.files import write_text
from regionr1.hub import resolve_source
from regionr1.scorers.load import read_scorer

SETTINGS = "regionr1.json"
SCORER_WEIGHTS = "scorer.safetensors"
FILES = (".yaml", ".yml", ".safetensors")  # how a scorer ends that is a file
CLASSES = {
    "policy": "regionr1.policy.crop_policy.CropPolicy",
    "reranker": "regionr1.scorers.reranker.RewardReranker",
}
TRAINING_ONLY = (
    *("adapter", "vision_cache", "self_check", "compile_decode"),
    *("gradient_checkpointing", "logprob_path"),
)  # settings of the policy that use has no use for


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of policy, re-ranker and crop prior from a resolved configuration."""
    model = config["model"]
    policy = {k: v for k, v in model["policy"]["init_args"].items() if k not in TRAINING_ONLY}
    if Path(policy["model"]).is_dir():
        shipped = Path(policy["model"]).resolve() == Path(resolve_source("builtin", None)).resolve()
        policy["model"] = "builtin" if shipped else str(Path(policy["model"]).resolve())
    reranker = dict(model["reranker"]["init_args"])
    reranker["scorer"] = _described(reranker["scorer"])
    return {"policy": policy, "reranker": reranker, "crop_prior": dict(model["crop_prior"])}


def is_portable(config: Mapping[str, Any]) -> bool:
    """Whether the configuration is of the platform's own policy and re-ranker."""
    model = config["model"]
    classes = {name: (model.get(name) or {}).get("class_path") for name in CLASSES}
    return "crop_prior" in model and classes == CLASSES


def _described(scorer: str | Mapping[str, Any]) -> Any:
    """A scorer's class and arguments instead of the file that holds them; folders in full.

    A file that is gone stays a name, which is told when it is used: a trained adapter is not to be
    lost for it.
    """
    if isinstance(scorer, str):
        if scorer.endswith(FILES) and not Path(scorer).is_file():
            return scorer
        if not scorer.endswith(FILES[:2]):
            return SCORER_WEIGHTS if scorer.endswith(".safetensors") else scorer
        scorer = read_scorer(Path(scorer))
    args = {
        name: str(Path(value).resolve()) if isinstance(value, str) and _is_place(value) else value
        for name, value in (scorer.get("init_args") or {}).items()
    }
    return {"class_path": scorer["class_path"], "init_args": args}


def _is_place(value: str) -> bool:
    """Whether a text is the path of something here, and not a word that a file happens to have."""
    return bool(value) and (Path(value).is_dir() or ("/" in value and Path(value).exists()))


def write_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Adds the settings to an adapter's folder, and the scorer's weights if they are a file."""
    settings = settings_of(config)
    given = config["model"]["reranker"]["init_args"]["scorer"]
    if settings["reranker"]["scorer"] == SCORER_WEIGHTS and Path(given).is_file():
        shutil.copyfile(given, folder / SCORER_WEIGHTS)
    write_text(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
