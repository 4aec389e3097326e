"""The description of a run, which MLflow shows in its table and on top of the run's page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regionr1.tracking.logger import TrackingLogger

NOTE_TAG = "mlflow.note.content"
TOLD = (
    *("model.policy.model", "model.policy.lora_rank", "model.decision", "model.group_size"),
    *("model.kl_weight", "model.optimizer.lr", "trainer.max_steps", "data.batch_size"),
    *("data.shards", "seed_everything"),
)


def made_of(settings: Mapping[str, Any]) -> str:
    """The settings that most runs differ in, on a line."""
    found = {key.rpartition(".")[2]: settings[key] for key in TOLD if key in settings}
    return " · ".join(f"{name} {value}" for name, value in found.items())


def describe(logger: TrackingLogger, title: str, text: str) -> None:
    """Sets a part of the description and leaves the others.

    Args:
        logger: Of the run.
        title: Heading of the part; empty for the first, which has none.
        text: Markdown.
    """
    before = logger.experiment.get_run(logger.run_id).data.tags.get(NOTE_TAG, "")
    first, *rest = re.split(r"^## (.*)\n", before, flags=re.MULTILINE)
    parts = {"": first.strip(), **dict(zip(rest[::2], map(str.strip, rest[1::2]), strict=True))}
    parts[title] = text.strip()
    note = "\n\n".join(f"## {name}\n{part}" if name else part for name, part in parts.items())
    logger.experiment.set_tag(logger.run_id, NOTE_TAG, note.strip())
