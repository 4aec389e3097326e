"""The resolved configuration as parameters and as an artifact of its run."""

from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from regionr1.errors import redacted
from regionr1.evaluation.settings import settings
from regionr1.tracking.description import describe, made_of
from regionr1.tracking.resume import CONFIG_ARTIFACT
from regionr1.tracking.run_files import callbacks_of, keep_text, tracker


class ConfigArtifact(SaveConfigCallback):
    """Logs what was parsed: config.yaml for fit, config_test.yaml and so on for the other verbs.

    The settings in it that can change the result are logged as parameters.

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
        of_logger = config["trainer"]["logger"]
        resumed = None
        if isinstance(of_logger, dict):
            resumed = of_logger.get("init_args", {}).pop("run_id", None)
        verb = TrainerFn(stage).value
        logger = tracker(trainer)
        shown = {
            name: redacted(value) if isinstance(value, str) else value
            for name, value in settings(config).items()
        }
        if verb == "fit" or logger is None or not logger.continues:
            for each in trainer.loggers:
                each.log_hyperparams(shown)
        if logger is not None and not logger.continues:
            describe(logger, "", made_of(shown))
        if verb == "fit" and logger is not None and logger.continues:
            logger.experiment.update_run(logger.run_id, status="RUNNING")
        text = yaml.safe_dump(config, sort_keys=False)
        if verb == "fit" and resumed is not None:
            self.pending = text
        else:
            name = CONFIG_ARTIFACT if verb == "fit" else f"config_{verb}.yaml"
            keep_text(trainer, text, name)

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        """Logs what the first step of a resumed run was done with."""
        if self.pending is not None and trainer.global_step > 0:
            keep_text(trainer, self.pending, CONFIG_ARTIFACT)
            self.pending = None

    def resolved(self) -> dict[str, Any]:
        """The configuration with every default."""
        return yaml.safe_load(self.parser.dump(self.config, skip_none=False, format="yaml"))


def resolved_config(trainer: Trainer) -> dict[str, Any] | None:
    """The configuration of a run that came from the command line, else None."""
    found = callbacks_of(trainer, ConfigArtifact)
    return found[0].resolved() if found else None
