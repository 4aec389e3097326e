"""Two pictures of a test: where the policy won most over the full image, and where it lost most."""

from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.data.shards.datamodule import RerankDataModule
from regionr1.data.shards.stream import samples_of
from regionr1.evaluation.cases import cases_of, chosen_cases
from regionr1.evaluation.pictures import case_picture
from regionr1.tracking.callbacks.reported import ReportedModule
from regionr1.tracking.callbacks.validation_threshold import gathered
from regionr1.tracking.run_files import keep_picture

PICTURES = {"Best gains": "best_gains", "Worst losses": "worst_losses"}


class CasePictures(Callback):
    """Draws query, crop and the best candidates before and after, positives framed.

    The test split is read once more for the queries that are shown. Candidates are named and not
    shown, since shards hold their embeddings only; `regionr1 report --root` draws them too.

    Args:
        examples: Queries in each picture; 0 draws none.
    """

    def __init__(self, examples: int = 4) -> None:
        self.examples = examples

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws both, on rank 0."""
        if not self.examples or not isinstance(pl_module, ReportedModule):
            return
        outcomes = gathered(trainer, list(cast(ReportedModule, pl_module).test_outcomes))
        datamodule = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or not isinstance(datamodule, RerankDataModule):
            return
        found = chosen_cases(outcomes, self.examples)
        chosen = {title: keys for title, keys in found.items() if title in PICTURES}
        wanted = {key for keys in chosen.values() for key in keys}
        if not wanted or not trainer.loggers:
            return
        samples = samples_of(datamodule.folder, datamodule.index("test"), wanted)
        shown = cases_of(outcomes, samples)
        for title, keys in chosen.items():
            keep_picture(trainer, case_picture([shown[key] for key in keys]), PICTURES[title])
