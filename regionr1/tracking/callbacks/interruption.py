"""SIGTERM and Ctrl-C end a run between two steps, with a checkpoint and the status KILLED."""

import signal
import sys
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.errors import Interrupted
from regionr1.tracking.run_files import tracker

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(Callback):
    """Ends a run when it is told to.

    Lightning does so after SIGTERM, but with exit code 0, and lets Ctrl-C hit the middle of an
    optimizer's step, after which no checkpoint is worth keeping.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.before: dict[int, Any] = {}
        self.running = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listens from here on."""
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment):
            # Lightning would ignore SIGTERM, and load the checkpoint that it leaves for the job
            # into whatever is trained next in this folder.
            environment.auto_requeue = False

        def hear(signum: int, frame: FrameType | None) -> None:
            again = self.signum is not None
            self.signum = signum
            if again or not self.running:
                raise Interrupted(signum)
            trainer._signal_connector.received_sigterm = True
            name = signal.Signals(signum).name
            print(f"\n{name}: ends after this step; again ends at once", file=sys.stderr)

        self.signum, self.running = None, False
        for signum in SIGNALS:
            self._listen(signum, hear)

    def _listen(self, signum: int, hear: Any) -> None:
        try:
            self.before[signum] = signal.signal(signum, hear)
        except ValueError:  # in a thread, which signals never reach
            pass

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on there are steps to wait for."""
        self.running = True

    on_validation_start = on_test_start = on_predict_start = on_train_start

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Has the run end as KILLED, which Lightning would call failed."""
        logger = tracker(trainer)
        if self.signum is not None and logger is not None:
            logger.killed = True

    def end(self, trainer: Trainer) -> Interrupted:
        """Says how to go on, on rank 0; returns what is raised once the run has ended."""
        signum = signal.SIGTERM if self.signum is None else self.signum
        logger = tracker(trainer)
        if trainer.is_global_zero and trainer.state.fn == "fit":
            mend = "nothing was trained; the same command begins again"
            if logger is not None and trainer.global_step:
                mend = f"this goes on: regionr1 fit --resume {logger.run_id}"
            name = signal.Signals(signum).name
            print(f"ended by {name} after step {trainer.global_step}; {mend}", file=sys.stderr)
        return Interrupted(signum)

    def stop_listening(self) -> None:
        """Leaves signals to whoever had them before."""
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        self.before = {}
