"""The threshold on P(REGION), fitted on the validation split when a run is tested."""

from itertools import islice

import torch
import torch.distributed
from lightning.pytorch import LightningModule, Trainer

from regionr1.data.shards.datamodule import RerankDataModule
from regionr1.errors import UserError
from regionr1.evaluation.table import Outcome
from regionr1.evaluation.threshold import Threshold, fit_threshold
from regionr1.tracking.callbacks.reported import ReportedModule


def validation_threshold(trainer: Trainer, module: LightningModule) -> Threshold | None:
    """Fits the threshold on as many validation batches as `trainer.limit_val_batches` allows.

    Every rank takes its share of the queries and all fit on the queries of all.

    Returns:
        None where the data has no validation split to fit on, which is printed, or the module
        makes no crops.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, RerankDataModule) or not isinstance(module, ReportedModule):
        return None
    try:
        datamodule.setup("validate")
        module.check_data(datamodule, "validate")
    except UserError as error:
        if trainer.is_global_zero:
            print(f"no row policy_threshold, which is fitted on validation queries: {error}")
        return None
    loader = datamodule.val_dataloader()
    limit = trainer.limit_val_batches
    n = limit if isinstance(limit, int) else round(limit * len(loader))
    outcomes: list[Outcome] = []
    for batch in islice(loader, n):
        outcomes += module.evaluator.full_and_crop(batch.to(module.device))
    return fit_threshold(gathered(trainer, outcomes))


def gathered(trainer: Trainer, outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes of all ranks."""
    if trainer.world_size == 1:
        return outcomes
    parts: list[list[Outcome]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(parts, outcomes)
    return [outcome for part in parts for outcome in part]
