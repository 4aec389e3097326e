"""Processor, memory, disk, network and GPU of a run over time.

MLflow's own switch does nothing for runs that are logged by a client, and its monitor gives up when
the server is away for a moment.
"""

import threading
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from regionr1.errors import UserError
from regionr1.tracking.logger import TrackingLogger
from regionr1.tracking.run_files import tracker


class SystemMetrics(Callback):
    """Logs system/* from a thread while a run trains.

    Args:
        every_s: Seconds between two samples; 0 turns them off.
    """

    def __init__(self, every_s: float = 10.0) -> None:
        if every_s < 0:
            raise UserError(f"system_metrics.every_s must be at least 0, not {every_s}")
        self.every_s = every_s
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the thread that measures the machine."""
        logger = tracker(trainer)
        if self.every_s == 0 or not trainer.is_global_zero:
            return
        if logger is not None:
            self.ended.clear()
            self.thread = threading.Thread(target=self._watch, args=(logger,), daemon=True)
            self.thread.start()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the measuring thread."""
        self.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Ends the measuring thread."""
        self.stop()

    def stop(self) -> None:
        """Takes a last sample and ends the thread."""
        if self.thread is not None:
            self.ended.set()
            self.thread.join()
            self.thread = None

    def _watch(self, logger: TrackingLogger) -> None:
        from mlflow.entities import Metric

        monitors = _monitors()
        begin = time.monotonic()
        over = False
        while not over:
            over = self.ended.wait(self.every_s)
            now = int(time.time() * 1000)
            step = round(time.monotonic() - begin)  # seconds of training; the UI shows both
            metrics = []
            for monitor in monitors:
                monitor.collect_metrics()
                for name, value in monitor.aggregate_metrics().items():
                    metrics.append(Metric(f"system/{name}", float(value), now, step))
                monitor.clear_metrics()
            logger.experiment.log_batch(logger.run_id, metrics=metrics)


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        monitors.append(GPUMonitor())
    except Exception:  # without pynvml or a driver there is nothing to watch
        pass
    return monitors
