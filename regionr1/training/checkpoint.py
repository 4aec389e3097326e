"""Checkpoint files: whole or not there, known to be unaltered, and read as data.

A checkpoint is a zip archive, as torch writes it, with the digest of all its bytes in the archive's
comment. So file and digest are replaced together, and whatever reads checkpoints reads these.
"""

import hashlib
import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule

from regionr1.errors import UserError
from regionr1.files import write_whole

_SEAL = b"sha256 "


class WholeCheckpoints(TorchCheckpointIO):
    """Writes and reads checkpoints for a trainer.

    Lightning's own way goes through the system's temporary folder. Where that is another
    filesystem it copies onto the checkpoint before, and a kill or a full disk leaves neither.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: object = None
    ) -> None:
        """Writes a checkpoint beside the place that it takes when it is on the disk.

        Raises:
            UserError: The disk is full or the folder cannot be written.
        """
        mend = "make room, then begin again"
        if any(Path(path).parent.glob("*.ckpt")):
            mend = "the one before it is kept: make room, then `regionr1 fit --resume last` goes on"
        write_whole(Path(path), lambda file: _write(checkpoint, file), mend)

    def load_checkpoint(
        self, path: Any, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint.

        Raises:
            UserError: It is missing or damaged.
        """
        return read_checkpoint(Path(path), trusted=weights_only is False)


def _write(checkpoint: Mapping[str, Any], file: BinaryIO) -> None:
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    body = buffer.getbuffer()[:-2]  # what follows is the length of the comment, 0 so far
    file.write(body)
    file.write(_seal(body))


def _seal(body: Any) -> bytes:
    """The end of an archive: its comment, which holds the digest, after the comment's length."""
    comment = _SEAL + hashlib.sha256(body).hexdigest().encode()
    return struct.pack("<H", len(comment)) + comment


def _is_intact(path: Path) -> bool:
    """Whether a file is as it was written; one that carries no digest has at least torch's CRCs."""
    with zipfile.ZipFile(path) as archive:
        if not archive.comment:
            return archive.testzip() is None
        end = 2 + len(archive.comment)
    content = memoryview(path.read_bytes())
    return content[-end:] == _seal(content[:-end])


def read_checkpoint(path: Path, trusted: bool = False) -> dict[str, Any]:
    """Reads a checkpoint file.

    Args:
        path: The file.
        trusted: Whether code that it may hold is run.

    Raises:
        UserError: If it is missing, damaged, or no checkpoint.
    """
    mend = "give another checkpoint of a run"
    try:
        intact = _is_intact(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=not trusted)
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror}; {mend}") from error
    except Exception as error:  # zip and pickle raise whatever the bytes lead them to
        raise UserError(
            f"cannot read checkpoint {path}: it is damaged or no checkpoint; {mend}"
        ) from error
    if not intact:
        raise UserError(
            f"cannot read checkpoint {path}: it was altered after it was written; {mend}"
        )
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is no checkpoint of a run; {mend}")
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
