"""Files that a run leaves behind: artifacts in MLflow, or a folder of any other logger's run."""

import shutil
from pathlib import Path
from typing import TypeVar, cast

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from PIL.Image import Image

from regionr1.errors import redacted
from regionr1.files import write_text
from regionr1.tracking.logger import TrackingLogger

Found = TypeVar("Found", bound=Callback)


def tracker(trainer: Trainer) -> TrackingLogger | None:
    """The logger of a trainer that logs to MLflow, which may have others beside it."""
    return next((x for x in trainer.loggers if isinstance(x, TrackingLogger)), None)


def callbacks_of(trainer: Trainer, kind: type[Found]) -> list[Found]:
    """The callbacks of a class that a trainer has."""
    return [each for each in trainer.callbacks if isinstance(each, kind)]  # type: ignore[attr-defined]


def other_folder(trainer: Trainer) -> Path | None:
    """The folder of a run that MLflow knows nothing of; None where nothing is logged at all."""
    if tracker(trainer) is not None or not trainer.loggers:
        return None
    logger: Logger = trainer.loggers[0]
    own = getattr(logger, "log_dir", None)  # of TensorBoard and CSV
    if own is not None:
        return Path(own)
    parts = (logger.save_dir or trainer.default_root_dir, logger.name, logger.version)
    return Path(*(str(part) for part in parts if part is not None))


def trained_in(trainer: Trainer) -> Path:
    """The folder of the run that a trainer trains; on rank 0."""
    folder = Path(trainer.default_root_dir)
    logger = tracker(trainer)
    if trainer.is_global_zero and logger is not None:
        return Path(logger.save_dir or folder) / logger.name / logger.run_id
    return other_folder(trainer) or folder


def keep_text(trainer: Trainer, text: str, name: str) -> None:
    """Keeps a text under a file name, without the passwords of the addresses in it."""
    logger, folder, text = tracker(trainer), other_folder(trainer), redacted(text)
    if logger is not None:
        logger.experiment.log_text(logger.run_id, text, name)
    elif folder is not None:
        write_text(folder / name, text, mend="set another trainer.default_root_dir")


def keep_file(trainer: Trainer, path: Path) -> None:
    """Keeps a copy of a file under its own name."""
    logger, folder = tracker(trainer), other_folder(trainer)
    if logger is not None:
        logger.experiment.log_artifact(logger.run_id, str(path))
    elif folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)


def keep_folder(trainer: Trainer, path: Path, name: str) -> None:
    """Keeps a copy of what a folder holds under another name."""
    logger, folder = tracker(trainer), other_folder(trainer)
    if logger is not None:
        logger.experiment.log_artifacts(logger.run_id, str(path), name)
    elif folder is not None:
        shutil.copytree(path, folder / name, dirs_exist_ok=True)


def keep_picture(trainer: Trainer, picture: Image, name: str, step: int | None = None) -> None:
    """Keeps a picture as NAME.png; MLflow compares those of one name over steps and runs."""
    logger, folder = tracker(trainer), other_folder(trainer)
    if logger is not None and step is None:
        logger.experiment.log_image(logger.run_id, picture, f"{name}.png")
    elif logger is not None:
        logger.experiment.log_image(logger.run_id, picture, key=name, step=cast(int, step))
    elif folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / (f"{name}.png" if step is None else f"{name}-{step:06d}.png"))
