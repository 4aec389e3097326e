"""A sweep of which only the training is made up: a trial reports a curve and sleeps.

    python sweep_worker.py SWEEP_FILE STORAGE N_TRIALS SECONDS_PER_TRIAL HEARTBEAT_S

is one worker. Each trial that ends well appends its number to done.txt in the working folder; none
goes past its first step while there is a file named hold.
"""

import sys
import time
from pathlib import Path

from tiny_run import TinyData, TinyModule

from regionr1.cli.sweep import run_sweep
from regionr1.sweep import summary
from regionr1.sweep.plan import read_plan
from regionr1.sweep.store import StudyStore
from regionr1.sweep.trials import TrialFailed, TrialJob
from regionr1.tracking.channel import TrialChannel

CONFIG = """\
trainer:
  accelerator: cpu
  max_steps: 4
  max_epochs: -1
  val_check_interval: 1
  check_val_every_n_epoch: null
  num_sanity_val_steps: 0
  enable_progress_bar: false
  enable_model_summary: false
model:
  policy:
    class_path: tiny_run.TinyPolicy
data:
  shards: here
"""
SWEEP = """\
study: colours
configs: [run.yaml]
objectives:
  - {metric: val/score, direction: maximize}
space:
  model.group_size: {type: int, low: 2, high: 9}
  model.policy.rank: {type: categorical, choices: [2, 3, 4]}
enqueue:
  - {model.group_size: 8, model.policy.rank: 2}
"""


class MadeUpTraining:
    """A runner: the score is the group size, times how far it got.

    Args:
        seconds: How long a trial takes.
        fails: Group sizes that run out of memory.
    """

    def __init__(self, seconds: float = 0, fails: tuple[int, ...] = ()) -> None:
        self.seconds = seconds
        self.fails = fails

    def __call__(self, job: TrialJob, channel: TrialChannel) -> None:
        arguments = list(job.arguments)
        size = int(arguments[arguments.index("--model.group_size") + 1])
        channel.started(None)
        for step in range(1, 5):
            time.sleep(self.seconds / 4)
            while Path("hold").exists():
                time.sleep(0.05)
            if size in self.fails:
                raise TrialFailed("out of memory: made up")
            if channel.report(step, {"val/score": size * step / 4}, True):
                return
        with Path("done.txt").open("a") as file:
            file.write(f"{job.tags['sweep.trial']}\n")


def files(folder: Path, sweep: str = SWEEP) -> Path:
    """Writes config and sweep file; returns the latter."""
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "sweep.yaml").write_text(sweep)
    return Path("sweep.yaml")


if __name__ == "__main__":
    summary.draw = lambda *_: []  # takes seconds, and the pictures have their own tests
    path, storage, n_trials, seconds, heartbeat_s = sys.argv[1:]
    run_sweep(
        read_plan(Path(path)),
        StudyStore(storage, int(heartbeat_s)),
        MadeUpTraining(float(seconds)),
        int(n_trials),
        model_class=TinyModule,
        datamodule_class=TinyData,
    )
