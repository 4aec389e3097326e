"""What a run leaves behind in MLflow: the test table and the adapter."""

import tempfile
from pathlib import Path
from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.evaluation.findings import Findings
from regionr1.evaluation.outcome_file import OUTCOMES, write_outcomes
from regionr1.evaluation.render import format_table
from regionr1.evaluation.threshold import Threshold, threshold_outcomes
from regionr1.policy.adapter_folder import is_portable, write_settings
from regionr1.tracking.callbacks.config_artifact import resolved_config
from regionr1.tracking.callbacks.reported import ReportedModule
from regionr1.tracking.callbacks.validation_threshold import gathered, validation_threshold
from regionr1.tracking.description import describe
from regionr1.tracking.logged_model import log_adapter
from regionr1.tracking.metric_names import TESTED
from regionr1.tracking.run_files import keep_file, keep_folder, keep_text, tracker


class TestTable(Callback):
    """Prints the test table and logs it as Markdown, CSV and JSON, and each number as a metric.

    Tables under it tell what the policy's gain over the full image is made of, how good its
    decisions are, and the parts of the split apart: question types, image sources, subsets. The
    row `policy_threshold` decides by a threshold that is fitted on the validation split before the
    test begins. The outcome of each query is logged too, for `regionr1 compare`.

    The module collects `test_outcomes`, a list of Outcome.
    """

    def __init__(self) -> None:
        self.threshold: Threshold | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fits the threshold."""
        self.threshold = validation_threshold(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the outcomes of all ranks, prints the table and logs it."""
        outcomes = gathered(trainer, list(cast(ReportedModule, pl_module).test_outcomes))
        if not trainer.is_global_zero or not outcomes:
            return
        if self.threshold is not None:
            outcomes += threshold_outcomes(outcomes, self.threshold.value)
        found = Findings(outcomes, self.threshold)
        print(f"\n{found.text()}")
        for name, text in found.files().items():
            keep_text(trainer, text, name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / OUTCOMES
            write_outcomes(path, outcomes)
            keep_file(trainer, path)
        logger = tracker(trainer)
        if logger is not None:
            few = ("cond_recall_at_1", "recall_at_1", "mrr", "region_rate")
            describe(logger, "Test", format_table(found.rows, few, few[:1]))
        values = {f"test/{name}": value for name, value in found.values().items()}
        values = {name: value for name, value in values.items() if is_followed(name)}
        for each in trainer.loggers:
            each.log_metrics(values, step=trainer.global_step)


def is_followed(name: str) -> bool:
    """Whether a number of a test is a metric too: the policy's own, and what its gain is made of.

    The others are hundreds, and in the tables.
    """
    of_gain = name.startswith("test/gain/") and name.endswith(("/cond_recall_at_1", "/mrr"))
    return (
        name in TESTED
        or of_gain
        or name.startswith("test/decision/policy/")
        or name == "test/policy_threshold/threshold"
    )


class AdapterArtifact(Callback):
    """Keeps the trained adapter as a folder `adapter` that plain PEFT loads, and as MLflow's model.

    The module writes it by save_adapter(folder). The settings it was trained with lie beside it,
    for RegionReranker.from_pretrained.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the adapter once, after the last training step."""
        if not trainer.is_global_zero or not trainer.loggers:
            return
        with tempfile.TemporaryDirectory() as folder:
            cast(ReportedModule, pl_module).save_adapter(Path(folder))
            config = resolved_config(trainer)
            if config is not None and is_portable(config):
                write_settings(Path(folder), config)
            keep_folder(trainer, Path(folder), "adapter")
            logger = tracker(trainer)
            if logger is not None:
                log_adapter(logger, Path(folder), trainer.global_step, config or {})
