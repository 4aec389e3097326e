"""Running trials in the sweep's own process."""

from __future__ import annotations

import gc
from collections.abc import Callable

from regionr1.errors import UserError, sentence
from regionr1.sweep.trials import TrialFailed, TrialJob, out_of_memory
from regionr1.tracking.callbacks.trial import TrialCallback
from regionr1.tracking.channel import TrialChannel


class InProcess:
    """Runs trials one after the other in this process; for quick models and tests.

    Args:
        fit: Runs `regionr1 fit` with these arguments and one more callback.
    """

    def __init__(self, fit: Callable[[list[str], TrialCallback], object]) -> None:
        self.fit = fit

    def __call__(self, job: TrialJob, channel: TrialChannel) -> None:
        """Runs the trial and frees what it leaves behind."""
        try:
            self.fit(list(job.arguments), TrialCallback(channel, job.metrics, job.tags))
        except UserError as error:
            raise TrialFailed(sentence(error)) from error
        except Exception as error:  # whatever a training raises fails this trial only
            reason = sentence(error)
            raise TrialFailed(out_of_memory(reason, error) or reason) from error
        finally:
            import torch

            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
