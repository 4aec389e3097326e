"""Where the time of a training step goes.

It is switched on by `--trainer.profiler regionr1.tracking.callbacks.profiler.StageProfiler`.

Inside training_step a module names its own stages with `self.trainer.profiler.profile("prefill")`,
and so on. Each second is counted once: a stage that runs inside another is taken off the outer one.
"""

import re
import time
from collections import defaultdict
from pathlib import Path

import torch
from lightning.pytorch.profilers import Profiler

# Lightning's names of the actions that make up a training step, outermost first, and what we call
# them.
LIGHTNING_STAGES = (
    (re.compile(r"\.train_dataloader_next$"), "data"),
    (re.compile(r"\.(batch_to_device|transfer_batch_to_device)$"), "data to device"),
    (re.compile(r"\.optimizer_step$"), "optimizer"),
    (re.compile(r"\.backward$"), "backward"),
    (re.compile(r"\.training_step$"), "training step, unnamed"),
)
STEP = re.compile(r"^run_training_batch$")
DATA = LIGHTNING_STAGES[0][0]


class StageProfiler(Profiler):
    """Prints seconds, milliseconds per step and share of each stage of a training step.

    Validation is left out.

    Args:
        dirpath: Folder for the report when `filename` is given.
        filename: Name of the report; left out, it is printed.
    """

    def __init__(self, dirpath: str | None = None, filename: str | None = None) -> None:
        super().__init__(dirpath=None if dirpath is None else Path(dirpath), filename=filename)
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps = 0
        self.stack: list[
            tuple[str, str, float, float]
        ] = []  # action, stage, begin, seconds of its children

    def stage_of(self, action_name: str) -> str:
        """The stage an action belongs to.

        An action that Lightning names and we do not is counted as Lightning's.
        """
        for pattern, stage in LIGHTNING_STAGES:
            if pattern.search(action_name):
                return stage
        return (
            "Lightning" if action_name.startswith("[") or STEP.match(action_name) else action_name
        )

    def start(self, action_name: str) -> None:
        """Begins an action; only those of a training step, and fetching its batch, count."""
        if not self.stack and not (STEP.match(action_name) or DATA.search(action_name)):
            return
        self.stack.append((action_name, self.stage_of(action_name), self.now(), 0.0))

    def stop(self, action_name: str) -> None:
        """Ends an action and books its own seconds, without those of the actions inside it."""
        if not self.stack or self.stack[-1][0] != action_name:
            return
        _, stage, begin, inside_s = self.stack.pop()
        total_s = self.now() - begin
        self.seconds[stage] += total_s - inside_s
        if self.stack:
            outer = self.stack[-1]
            self.stack[-1] = (*outer[:3], outer[3] + total_s)
        self.steps += bool(STEP.match(action_name))

    @staticmethod
    def now() -> float:
        """The time in seconds, after the accelerator has finished what was asked of it.

        Otherwise the wrong stage would wait.
        """
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def summary(self) -> str:
        """The report as text: seconds, milliseconds per step and share of every stage."""
        if not self.steps:
            return ""
        total = sum(self.seconds.values())
        width = max(len(stage) for stage in self.seconds)
        lines = [f"{'stage':<{width}}  seconds  ms/step  share"]
        for stage, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            per_step_ms, share = 1000 * seconds / self.steps, seconds / total
            lines.append(f"{stage:<{width}}  {seconds:7.2f}  {per_step_ms:7.1f}  {share:5.1%}")
        per_step_ms = 1000 * total / self.steps
        lines.append(f"{'all':<{width}}  {total:7.2f}  {per_step_ms:7.1f}  {self.steps} steps")
        return "\n" + "\n".join(lines) + "\n"

    def describe(self) -> None:
        """Prints or writes the report once, at the end of training."""
        if self.filename is None and self._local_rank in (None, 0):
            print(self.summary(), end="")
        else:
            super().describe()
        self.seconds.clear()
        self.steps = 0
