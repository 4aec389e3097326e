"""Learning rate: linear warm-up, then half a cosine to zero.

Region-R1's appendix B says cosine and 50 warm-up steps, and no more.
"""

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

SHAPE = ("warmup_steps", "total_steps")


class WarmupCosine(LRScheduler):
    """Scales the learning rate by (step + 1) / warmup_steps, then by half a cosine.

    It is stepped once per optimizer step.

    Args:
        optimizer: The optimizer whose learning rate is scaled.
        warmup_steps: Steps of the linear warm-up.
        total_steps: Step at which the learning rate has come down to zero; it stays there.
        last_epoch: Steps done so far, -1 at the start.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int, total_steps: int, last_epoch: int = -1
    ) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"warmup_steps must be in [0, total_steps), got {warmup_steps} of {total_steps}"
            )
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The schedule's place and not its shape, because a resumed run may be given another."""
        return {k: v for k, v in super().state_dict().items() if k not in SHAPE}

    def factor(self, step: int) -> float:
        """Share of the full learning rate at a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return 0.5 * (1.0 + math.cos(math.pi * done))

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of each parameter group."""
        return [rate * self.factor(self.last_epoch) for rate in self.base_lrs]
