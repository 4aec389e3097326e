"""The resolved configuration as an artifact of its run."""

from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from regionr1.tracking.logger import TrackingLogger
from regionr1.tracking.resume import CONFIG_ARTIFACT


class ConfigArtifact(SaveConfigCallback):
    """Logs what was parsed: config.yaml for fit, config_test.yaml and so on for the other verbs.

    Lightning's own callback writes into trainer.log_dir, which does not exist under MLflow on
    sqlite. What ties the file to this one run (run id, checkpoint) is left out, so that it can
    start another. A resumed run keeps its file until a step was done with other settings.
    """

    pending: str | None = None

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Logs the resolved configuration; Lightning calls this on rank 0 only."""
        config = self.resolved()
        for key in ("config", "resume", "ckpt_path"):
            config.pop(key, None)
        settings = config["trainer"]["logger"]
        resumed = None
        if isinstance(settings, dict):
            resumed = settings.get("init_args", {}).pop("run_id", None)
        verb = TrainerFn(stage).value
        text = yaml.safe_dump(config, sort_keys=False)
        if verb == "fit" and resumed is not None:
            self.pending = text
        else:
            name = CONFIG_ARTIFACT if verb == "fit" else f"config_{verb}.yaml"
            self._log(trainer, name, text)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Logs what the first step of a resumed run was done with."""
        if self.pending is not None and trainer.global_step > 0:
            self._log(trainer, CONFIG_ARTIFACT, self.pending)
            self.pending = None

    def _log(self, trainer: Trainer, name: str, text: str) -> None:
        logger = trainer.logger
        if isinstance(logger, TrackingLogger):
            logger.experiment.log_text(logger.run_id, text, name)

    def resolved(self) -> dict[str, Any]:
        """The configuration with every default."""
        return yaml.safe_load(self.parser.dump(self.config, skip_none=False, format="yaml"))


def resolved_config(trainer: Trainer) -> dict[str, Any] | None:
    """The configuration of a run that came from the command line, else None."""
    found = [c for c in trainer.callbacks if isinstance(c, ConfigArtifact)]  # type: ignore[attr-defined]
    return found[0].resolved() if found else None
