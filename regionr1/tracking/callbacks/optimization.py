"""Learning rate and gradient norm of each optimizer step."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class Optimization(Callback):
    """Logs `lr`, and `grad_norm` before it is clipped."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Logs the learning rate and the norm of the gradients."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        pl_module.log_dict({"lr": optimizer.param_groups[0]["lr"], "grad_norm": norm})
