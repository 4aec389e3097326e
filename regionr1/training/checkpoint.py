"""Reading checkpoints as data, and refusing those of another architecture."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch import LightningModule

from regionr1.errors import UserError


def read_checkpoint(path: Path, trusted: bool = False) -> dict[str, Any]:
    """Reads a checkpoint file.

    Args:
        path: The file.
        trusted: Whether code that it may hold is run.

    Raises:
        UserError: If it is missing, or no checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=not trusted)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        # Pickle explains itself at length, or, for an empty file, not at all.
        reason = getattr(error, "strerror", None) or "it is damaged or no checkpoint"
        raise UserError(
            f"cannot read checkpoint {path}: {reason}; give the last.ckpt of a run"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is no checkpoint of a run; give the last.ckpt of one")
    return checkpoint


def refuse_other_architecture(module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Refuses a checkpoint whose parameters are not those that a module trains and saves.

    Such a module loads with strict_loading off, which would let a checkpoint of another model load
    nothing, silently.

    Args:
        module: The module about to be loaded into.
        checkpoint: The checkpoint, with its "state_dict".

    Raises:
        UserError: If the checkpoint lacks a trainable parameter, or holds one that the module has
            not or in another shape.
    """
    ours = module.state_dict()
    theirs = checkpoint["state_dict"]
    problem = "the checkpoint is of another architecture"
    mend = "load it with the model settings it was trained with (its run's config.yaml)"
    for name, value in theirs.items():
        if name not in ours:
            raise UserError(f"{problem}: it holds {name}, this model does not; {mend}")
        if ours[name].shape != value.shape:
            shapes = f"{tuple(value.shape)} there, {tuple(ours[name].shape)} in this model"
            raise UserError(f"{problem}: {name} is {shapes}; {mend}")
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and name not in theirs:
            raise UserError(f"{problem}: it lacks {name}, which this model trains; {mend}")
