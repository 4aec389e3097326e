"""What the two scripts that train the built-in policy share: training against the clock."""

import time
from collections.abc import Callable

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

WARM_UP = 0.02  # of the time
LAST = 0.005  # of the learning rate


def launch(processes: int, seed: int) -> Fabric:
    """Processes of one thread each, with a seed of their own, in bf16 on the CPU."""
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=processes, strategy="ddp", precision="bf16-mixed")
    fabric.launch()
    fabric.seed_everything(seed + fabric.global_rank)
    return fabric


def train_for(
    fabric: Fabric,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    lr: float,
    minutes: float,
    losses: Callable[[], dict[str, Tensor]],
    report: Callable[[int, str], object],
    every: float,
    what: str,
) -> int:
    """Takes steps until the time is up, with a short warm-up and a cosine.

    Args:
        fabric: As `launch` made it.
        learner: What is trained, as fabric set it up; its gradients are clipped to norm 1.
        optimizer: Of its parameters, as fabric set it up.
        lr: Highest learning rate.
        minutes: How long.
        losses: Named losses of a new batch; their sum is minimised.
        report: Told the steps taken and the losses in words, on the first process.
        every: Minutes between reports.
        what: Name of the progress bar.

    Returns:
        The steps taken.
    """
    started, steps, told = time.perf_counter(), 0, 0.0
    total = 60 * minutes
    hidden = fabric.global_rank > 0
    with tqdm(total=round(total), unit="s", desc=what, mininterval=15, disable=hidden) as bar:
        while True:
            # The first process's clock counts: one would wait for ever for the other's last step.
            done = fabric.broadcast((time.perf_counter() - started) / total)
            if done >= 1:
                return steps
            bar.update(round(done * total) - bar.n)
            for group in optimizer.param_groups:
                cosine = 0.5 * (1 + np.cos(np.pi * done)) + LAST
                group["lr"] = lr * min(1.0, done / WARM_UP) * cosine
            parts = losses()
            optimizer.zero_grad()
            fabric.backward(torch.stack(list(parts.values())).sum())
            fabric.clip_gradients(learner, optimizer, max_norm=1.0)
            optimizer.step()
            steps += 1
            if fabric.global_rank == 0 and done * minutes - told > every:
                told = done * minutes
                report(steps, ", ".join(f"{k} {v.item():.3f}" for k, v in parts.items()))


def covered(boxes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(..., rows * columns) bool: which centres lie in the (..., 4) boxes, xyxy in any unit.

    Args:
        boxes: In the unit of the centres; NaN covers nothing.
        x: (columns,) of the centres.
        y: (rows,) of the centres.
    """
    left, top, right, bottom = boxes[..., None].unbind(-2)
    down, across = (y > top) & (y < bottom), (x > left) & (x < right)
    return (down[..., :, None] & across[..., None, :]).flatten(-2)
