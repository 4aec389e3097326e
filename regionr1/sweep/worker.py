"""A worker: takes trials of a study one by one until the total is reached by all workers.

A trial is claimed while the study is locked: dead workers' trials are put back, trials are counted,
and the next one begins. So the total is exact however many workers there are, and a trial that was
taken up again counts once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from regionr1.errors import UserError
from regionr1.progress import duration
from regionr1.sweep.parent import ParentRun
from regionr1.sweep.plan import SweepPlan
from regionr1.sweep.space import overrides, suggest
from regionr1.sweep.store import StudyStore
from regionr1.sweep.trials import Runner, TrialFailed, TrialJob

if TYPE_CHECKING:
    from optuna import Study, Trial

FAILURES_IN_A_ROW = 3  # after so many, the fault is not the setting's
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
RUN_ATTR, REASON_ATTR, STEP_ATTR = "mlflow_run_id", "reason", "last_step"
CLAIMED_ATTR = "claimed"  # the trial's number: a trial taken up again inherits what is written here


def superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the trials that were taken up again under another number."""
    history = RetryHeartbeatStaleTrialCallback.retry_history
    return {number for trial in trials for number in history(trial)}


def counted(study: Study) -> list[FrozenTrial]:
    """The trials that count: all but those taken up again."""
    trials = study.get_trials(deepcopy=False)
    gone = superseded(trials)
    return [trial for trial in trials if trial.number not in gone]


class Worker:
    """Runs trials of one study.

    Args:
        plan: The sweep.
        study: Its study.
        store: Where the study is kept.
        parent: The sweep's run in MLflow.
        runner: Runs a trial.
        n_trials: Total of all workers.
        timeout_s: Seconds after which no further trial is begun.
        logs: Folder for what the trials print.
        say: Prints a line; None means at once to the standard output.
    """

    def __init__(
        self,
        plan: SweepPlan,
        study: Study,
        store: StudyStore,
        parent: ParentRun,
        runner: Runner,
        n_trials: int,
        timeout_s: float | None = None,
        logs: Path = Path("mlruns/sweeps"),
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.plan = plan
        self.study = study
        self.store = store
        self.parent = parent
        self.runner = runner
        self.n_trials = n_trials
        self.timeout_s = timeout_s
        self.logs = logs / plan.study
        self.say = partial(print, flush=True) if say is None else say
        self.poll_s = min(5.0, store.heartbeat_s)
        self.running: int | None = None
        self.last_reason = ""
        self.begin = time.monotonic()
        self.finished_before = 0

    def work(self) -> None:
        """Runs trials until the total is reached, time is up, or three in a row have failed.

        Raises:
            UserError: If three trials in a row failed.
            KeyboardInterrupt: If interrupted; the trial it hit will be run again.
        """
        begin = self.begin = time.monotonic()
        self.finished_before = self._finished()
        waiting, failures = False, 0
        while self.timeout_s is None or time.monotonic() - begin < self.timeout_s:
            with ExitStack() as lock:
                lock.enter_context(self.store.lock(self.plan.study))
                left = self._left()
                if left == "run":
                    waiting = False
                    failures = 0 if self._one(lock) else failures + 1
                    self._crown()
            if left == "done":
                return
            if left == "wait":
                if not waiting:
                    self.say("waiting for trials of other workers")
                waiting = True
                time.sleep(self.poll_s)
            if failures == FAILURES_IN_A_ROW:
                raise UserError(
                    f"{failures} trials in a row failed, the last one: {self.last_reason}; mend "
                    "that and give the same command again"
                )
        self.say(f"no trial is begun after {self.timeout_s:g} s; the same command goes on")

    def _left(self) -> str:
        """`run`, `wait` for others, who may die, or `done`."""
        if self.store.has_heartbeats:
            optuna.storages.fail_stale_trials(self.study)
        self._free_unclaimed()
        trials = counted(self.study)
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        finished = sum(trial.state in FINISHED for trial in trials)
        if finished + running < self.n_trials:
            return "run"
        return "wait" if running and self.store.has_heartbeats else "done"

    def _finished(self) -> int:
        return sum(trial.state in FINISHED for trial in counted(self.study))

    def _progress(self) -> str:
        """How many trials are done, the best so far, and when the rest will be."""
        done = self._finished()
        parts = [f"{done}/{self.n_trials} done"]
        found = best_trials(self.study)
        if len(self.plan.metrics) == 1 and found:
            parts.append(f"best {found[0].values[0]:.4f}, trial {found[0].number}")
        if done > self.finished_before:  # by all workers, since this one began
            each = (time.monotonic() - self.begin) / (done - self.finished_before)
            parts.append(f"about {duration(each * (self.n_trials - done))} left")
        return ", ".join(parts)

    def _crown(self) -> None:
        """Shows the best so far in MLflow."""
        found = best_trials(self.study)
        best = {
            trial.user_attrs[RUN_ATTR]: overrides(self.plan.space, trial.params)
            for trial in found
            if trial.user_attrs.get(RUN_ATTR)
        }
        single = dict(zip(self.plan.metrics, found[0].values, strict=True)) if found[:1] else {}
        lines = best_lines(self.study, self.plan.metrics)
        note = f"{self._progress()}\n\n" + "\n".join(f"- {line.strip()}" for line in lines[1:])
        if best:
            self.parent.crown(best, single if len(found) == 1 else {}, note)

    def _one(self, lock: ExitStack) -> bool:
        """One trial; the lock is given up as soon as it has begun. Returns whether it succeeded."""

        def objective(trial: Trial) -> float | Sequence[float]:
            values = suggest(self.plan.space, trial)
            self._claim(trial)
            lock.close()
            return self._run(trial, values)

        self.last_reason, self.running = "", None
        self.study.sampler = self.plan.make_sampler(len(self.study.get_trials(deepcopy=False)))
        try:
            self.study.optimize(objective, n_trials=1, catch=(TrialFailed,))
        except KeyboardInterrupt:
            self._put_back()
            raise
        return not self.last_reason

    def _claim(self, trial: Trial) -> None:
        """Gives the trial its first sign of life while the study is still locked."""
        if self.store.has_heartbeats:
            self.study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
        trial.set_user_attr(CLAIMED_ATTR, trial.number)

    def _free_unclaimed(self) -> None:
        """Puts back trials whose worker died before their first sign of life."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get(CLAIMED_ATTR) != trial.number:
                dead = self.study.tell(trial.number, state=TrialState.FAIL)
                RetryHeartbeatStaleTrialCallback(max_retry=None)(self.study, dead)

    def _put_back(self) -> None:
        """Has the trial that an interrupt hit run again."""
        if self.running is None:
            return
        hit = self.study.get_trials(deepcopy=False)[self.running]
        if hit.state == TrialState.FAIL:
            RetryHeartbeatStaleTrialCallback(max_retry=None)(self.study, hit)

    def _run(self, trial: Trial, values: Mapping[str, Any]) -> float | Sequence[float]:
        self.running = trial.number
        self._bury(trial)
        shown = ", ".join(f"{key.split('.')[-1]} {short(value)}" for key, value in values.items())
        name = f"{trial.number:03d} {shown}"
        job = TrialJob(
            arguments=[
                *self.plan.fit_arguments(values),
                *("--trainer.logger.init_args.run_name", name),
            ],
            metrics=self.plan.metrics,
            tags=self.parent.tags(trial.number),
            log=self.logs / f"{trial.number:04d}.log",
        )
        self.say(f"trial {trial.number} begins: {shown}  ({self._progress()})")
        channel, begin = StudyChannel(trial), time.monotonic()
        try:
            self.runner(job, channel)
            if channel.pruned:
                raise optuna.TrialPruned
            found = channel.result(self.plan.metrics)
        except TrialFailed as error:
            self.last_reason = str(error)
            trial.set_user_attr(REASON_ATTR, self.last_reason)
            self.parent.end(channel.run_id, "FAILED", self.last_reason)
            self.say(f"trial {trial.number} failed: {self.last_reason}")
            raise
        except KeyboardInterrupt:
            trial.set_user_attr(REASON_ATTR, "interrupted")
            self.parent.end(channel.run_id, "KILLED", "interrupted")
            raise
        except optuna.TrialPruned:
            self.say(f"trial {trial.number} pruned at step {channel.step}")
            raise
        took = duration(time.monotonic() - begin)
        result = ", ".join(f"{n} {v:.4f}" for n, v in zip(self.plan.metrics, found, strict=True))
        at = f"at step {channel.kept_step}"
        self.say(f"trial {trial.number} done in {took}: {result} {at}")
        return found if len(found) > 1 else found[0]

    def _bury(self, trial: Trial) -> None:
        """Ends the run of the worker that died with this trial."""
        trials = self.study.get_trials(deepcopy=False)
        history = RetryHeartbeatStaleTrialCallback.retry_history(trials[trial.number])
        if not history:
            return
        self.say(f"trial {trial.number} takes up trial {history[-1]}, whose worker ended")
        dead = trials[history[-1]]
        if dead.user_attrs.get(REASON_ATTR) is None:
            self.parent.end(dead.user_attrs.get(RUN_ATTR), "KILLED", "its worker ended")


def best_trials(study: Study) -> list[FrozenTrial]:
    """The best complete trial, or the Pareto front; none while no trial is complete."""
    trials = study.get_trials(deepcopy=False)
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        return []
    if len(study.directions) == 1:
        return [study.best_trial]  # the first of several that are equal
    return sorted(study.best_trials, key=lambda trial: trial.number)


def best_lines(study: Study, metrics: Sequence[str]) -> list[str]:
    """The best trial, or the Pareto front, as lines for people."""
    front = best_trials(study)
    if not front:
        return ["no trial is complete yet"]
    lines = ["best" if len(metrics) == 1 else f"Pareto front of {len(front)}"]
    for trial in front:
        values = ", ".join(f"{n} {v:.4f}" for n, v in zip(metrics, trial.values, strict=True))
        settings = ", ".join(f"{name} {short(value)}" for name, value in trial.params.items())
        lines.append(f"  trial {trial.number}: {values}  ({settings})")
    return lines


def short(value: object) -> str:
    """A parameter's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class StudyChannel:
    """Takes the reports of a run to its trial.

    Args:
        trial: The trial.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.values: dict[str, float] = {}
        self.kept_step = 0
        self.step = 0
        self.run_id: str | None = None
        self.pruned = False
        self.prunes = len(trial.study.directions) == 1

    def started(self, run_id: str | None) -> None:
        """Keeps the run's id, by which the trial is found in MLflow."""
        self.run_id = run_id
        self.trial.set_user_attr(RUN_ATTR, run_id)

    def report(self, step: int, values: Mapping[str, float], kept: bool) -> bool:
        """Reports the objective and asks the pruner."""
        if kept:
            self.values, self.kept_step = dict(values), step
        if step <= self.step:  # a second validation at the same step
            return False
        self.step = step
        self.trial.set_user_attr(STEP_ATTR, step)
        value = next(iter(values.values()), None)
        if not self.prunes or value is None or value != value:
            return False
        self.trial.report(value, step)
        self.pruned = bool(self.trial.should_prune())  # numpy has a bool of its own
        return self.pruned

    def result(self, metrics: Sequence[str]) -> list[float]:
        """The metrics of the best checkpoint, which `test` and `export` take.

        Raises:
            TrialFailed: If one of them was not logged or is not a number.
        """
        found = []
        for name in metrics:
            value = self.values.get(name)
            if value is None:
                raise TrialFailed(f"no validation logged the metric {name}")
            if value != value:
                raise TrialFailed(f"{name} is not a number: nothing counted for it")
            found.append(value)
        return found
