"""What a run leaves behind in MLflow: the test table and the adapter."""

import tempfile
from pathlib import Path
from typing import cast

import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.evaluation.gain import gain_parts, gain_table
from regionr1.evaluation.outcome_file import OUTCOMES, write_outcomes
from regionr1.evaluation.render import format_table, table_csv, table_json
from regionr1.evaluation.table import METRICS, Outcome, grouped_table, metrics_table
from regionr1.policy.adapter_folder import is_portable, write_settings
from regionr1.tracking.callbacks.config_artifact import resolved_config
from regionr1.tracking.callbacks.reported import ReportedModule
from regionr1.tracking.logger import TrackingLogger


class TestTable(Callback):
    """Prints the test table and logs it as Markdown, CSV and JSON, and each number as a metric.

    A table under it tells what the policy's gain over the full image is made of; another one tells
    the parts of the split apart: question types, image sources, subsets.
    The outcome of each query is logged too, for `regionr1 compare`.

    The module collects `test_outcomes`, a list of Outcome.
    """

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the outcomes of all ranks."""
        outcomes: list[Outcome] = list(cast(ReportedModule, pl_module).test_outcomes)
        if trainer.world_size > 1:
            parts: list[list[Outcome]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, outcomes)
            outcomes = [outcome for part in parts for outcome in part]
        if not trainer.is_global_zero or not outcomes:
            return
        rows = metrics_table(outcomes)
        print(f"\n{format_table(rows)}\n[95% interval: 1000 bootstrap resamples of the entities]")
        gain = gain_parts(outcomes)
        if gain:
            print(f"\n{gain_table(gain)}")
        by_part = grouped_table(outcomes)
        if by_part:
            print(f"\n{format_table(by_part)}")
        logger = trainer.logger
        if not isinstance(logger, TrackingLogger):
            return
        for name, table in (("test_table", rows), ("test_table_by_part", by_part)):
            if not table:
                continue
            text = format_table(table, list(METRICS), list(METRICS)) + "\n"
            logger.experiment.log_text(logger.run_id, text, f"{name}.md")
            logger.experiment.log_text(logger.run_id, table_csv(table), f"{name}.csv")
            logger.experiment.log_text(logger.run_id, table_json(table), f"{name}.json")
        if gain:
            logger.experiment.log_text(logger.run_id, gain_table(gain) + "\n", "test_gain.md")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / OUTCOMES
            write_outcomes(path, outcomes)
            logger.experiment.log_artifact(logger.run_id, str(path))
        values = {
            f"test/{row.method}/{name}": row.metrics[name].value for row in rows for name in METRICS
        }
        for part, differences in (gain or {}).items():
            for name, difference in differences.items():
                values[f"test/gain/{part}/{name}"] = difference.value
        logger.log_metrics(
            {k: v for k, v in values.items() if v is not None}, step=trainer.global_step
        )


class AdapterArtifact(Callback):
    """Logs the trained adapter as a folder `adapter` that plain PEFT loads.

    The module writes it by save_adapter(folder). The settings it was trained with lie beside it,
    for RegionReranker.from_pretrained.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs once, after the last step."""
        logger = trainer.logger
        if not trainer.is_global_zero or not isinstance(logger, TrackingLogger):
            return
        with tempfile.TemporaryDirectory() as folder:
            cast(ReportedModule, pl_module).save_adapter(Path(folder))
            config = resolved_config(trainer)
            if config is not None and is_portable(config):
                write_settings(Path(folder), config)
            logger.experiment.log_artifacts(logger.run_id, folder, "adapter")
