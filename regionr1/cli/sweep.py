"""`regionr1 sweep`: run a sweep, show what it found, write its best setting."""

import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from regionr1.errors import Interrupted, UserError
from regionr1.files import write_text
from regionr1.recipes import find
from regionr1.sweep.plan import SweepPlan, read_plan
from regionr1.sweep.space import Value

if TYPE_CHECKING:
    from optuna import Study

    from regionr1.sweep.parent import ParentRun
    from regionr1.sweep.store import StudyStore
    from regionr1.sweep.trials import Runner

DEFAULT_STORAGE = "sqlite:///mlruns/optuna.db"


@dataclass
class StudyOptions:
    """Which study a command is about.

    Attributes:
        file: Sweep file, or the name of one that `regionr1 recipes` lists.
        storage: Where the study is kept: sqlite:///FILE, journal:FILE or
            postgresql://USER@HOST/DATABASE.
        study: Name of the study; left out, the file's.
    """

    file: Path
    storage: str = DEFAULT_STORAGE
    study: str | None = None

    def plan(self, fixed: dict[str, Value] | None = None) -> SweepPlan:
        """Read the file, under the other name of the study if there is one."""
        plan = read_plan(find(str(self.file), "sweeps"), fixed or {})
        return plan if self.study is None else replace(plan, study=self.study)


@dataclass
class Sweep(StudyOptions):
    """Search the settings of a sweep file; the same command again goes on, or helps.

    Attributes:
        n_trials: Trials in total, of all workers together; left out, the file's.
        timeout: Seconds after which this worker begins no further trial.
        trial_timeout: Seconds after which a trial is ended and counts as failed.
        in_process: Run trials in this process, one after the other, and not in fresh ones.
        heartbeat_s: Seconds between two signs of life of a running trial; one that was silent for
            twice as long is taken up by another worker.
        fit_options: Options of `regionr1 fit` for every trial; easier written after `--`, as in
            `regionr1 sweep FILE -- --trainer.max_steps 100`.
    """

    n_trials: int | None = None
    timeout: float | None = None
    trial_timeout: float | None = None
    in_process: bool = False
    heartbeat_s: int = 30
    fit_options: tuple[str, ...] = ()

    def run(self) -> None:
        """Work on the study until it has its trials."""
        plan = self.plan(parse_fixed(self.fit_options))
        if self.in_process and self.trial_timeout is not None:
            raise UserError("--trial-timeout cannot end a trial in this process; drop --in-process")
        from regionr1.cli import fit as lightning_cli
        from regionr1.sweep.in_process import InProcess
        from regionr1.sweep.store import StudyStore
        from regionr1.sweep.trials import FreshProcess

        runner = (
            InProcess(lambda args, callback: lightning_cli.run(args, callbacks=[callback]))
            if self.in_process
            else FreshProcess(self.trial_timeout)
        )
        signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C
        store = StudyStore(self.storage, self.heartbeat_s)
        run_sweep(plan, store, runner, self.n_trials, self.timeout)


def _interrupt(signum: int, frame: object) -> None:
    raise Interrupted(signum)


def run_sweep(
    plan: SweepPlan,
    store: "StudyStore",
    runner: "Runner",
    n_trials: int | None = None,
    timeout_s: float | None = None,
    **classes: object,
) -> None:
    """Works on a study until it has its trials, and shows what was found, however it ends.

    Args:
        plan: The sweep.
        store: Where its study is kept.
        runner: Runs a trial.
        n_trials: Trials in total; None means the plan's.
        timeout_s: Seconds after which no further trial is begun.
        classes: Model and data module of `lightning_cli.run`, where they are not the usual ones.

    Raises:
        UserError: If the plan does not fit the command line, or trial after trial or each fails.
        KeyboardInterrupt: If interrupted; says how to go on.
    """
    from regionr1.cli.check_sweep import check_plan
    from regionr1.sweep.parent import ParentRun
    from regionr1.sweep.worker import Worker

    total = plan.n_trials if n_trials is None else n_trials
    if plan.is_grid:
        total = min(total, plan.n_trials)
    if total < 1:
        raise UserError(f"--n-trials must be at least 1, not {total}")
    logger = check_plan(plan, **classes)
    with store.lock(plan.study):
        study = store.open(plan)
        parent = ParentRun.open(plan, study, logger)
        if not study.get_trials(deepcopy=False):
            for point in plan.enqueue:
                study.enqueue_trial(point)
    print(f"study {plan.study} in {store.shown}, {total} trials in total")
    if not store.has_heartbeats:
        print("a journal file knows no signs of life: a killed worker's trial stays unfinished")
    try:
        Worker(plan, study, store, parent, runner, total, timeout_s).work()
    except KeyboardInterrupt:
        print(f"\ninterrupted; `regionr1 sweep {plan.path}` with the same options goes on")
        raise
    finally:
        found = _conclude(plan, study, store, parent, total)
    if found["trials_fail"] and not found["trials_complete"] + found["trials_pruned"]:
        raise UserError(f"all {found['trials_fail']:.0f} trials failed, for the reasons above")


def _conclude(
    plan: SweepPlan, study: "Study", store: "StudyStore", parent: "ParentRun", total: int
) -> dict[str, float]:
    """Prints and logs what the study found so far; returns its totals."""
    from optuna.trial import TrialState

    from regionr1.sweep.summary import draw, totals, trials_csv
    from regionr1.sweep.worker import FINISHED, best_lines, counted

    found = totals(study)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "trials.csv").write_text(trials_csv(study, plan.metrics), encoding="utf-8")
        missing = draw(study, plan.metrics, folder)
        with store.lock(plan.study):
            parent.show(folder, found)
            trials = counted(study)
            if not any(trial.state == TrialState.RUNNING for trial in trials):
                finished = sum(trial.state in FINISHED for trial in trials)
                parent.close("FINISHED" if finished >= total else "KILLED")
    kinds = ("complete", "pruned", "fail")
    print(", ".join(f"{found[f'trials_{kind}']:.0f} {kind}" for kind in kinds), end="")
    print(
        f"; {found['seconds']:.0f} s of trials, about {found['seconds_saved_by_pruning']:.0f} s "
        "saved by pruning"
    )
    print("\n".join(best_lines(study, plan.metrics)))
    if missing:
        print(f"too few trials to draw: {', '.join(missing)}")
    return found


@dataclass
class Report(StudyOptions):
    """Print what a study found and log its pictures and table anew."""

    def run(self) -> None:
        """Print what was found and log it."""
        plan = self.plan()
        from regionr1.cli.check_sweep import check_plan
        from regionr1.sweep.parent import ParentRun
        from regionr1.sweep.store import StudyStore

        store = StudyStore(self.storage)
        with store.lock(plan.study):
            opened = existing(store, plan)
            parent = ParentRun.open(plan, opened, check_plan(plan))
        _conclude(plan, opened, store, parent, total=0)


@dataclass
class Best(StudyOptions):
    """Write the best trial's settings as a config that `regionr1 fit -c` stacks last.

    Attributes:
        out: File to write; left out, the overlay is printed.
        trial: Another trial than the best.
    """

    out: Path | None = None
    trial: int | None = None

    def run(self) -> None:
        """Write the config, or print it."""
        plan = self.plan()
        from regionr1.sweep.overlay import overlay
        from regionr1.sweep.store import StudyStore

        store = StudyStore(self.storage)
        with store.lock(plan.study):
            opened = existing(store, plan)
        text = overlay(plan, opened, self.trial)
        if self.out is None:
            print(text, end="")
            return
        write_text(self.out, text, mend="choose another --out")
        configs = " ".join(f"-c {path}" for path in plan.configs)
        print(f"wrote {self.out}; run it: regionr1 fit {configs} -c {self.out}")


def existing(store: "StudyStore", plan: SweepPlan) -> "Study":
    """The study, which must have trials.

    Raises:
        UserError: If there is none.
    """
    if store.file is not None and not store.file.exists():
        raise UserError(f"there is no study in {store.shown}; run `regionr1 sweep {plan.path}`")
    opened = store.open(plan)
    if not opened.get_trials(deepcopy=False):
        raise UserError(
            f"study {plan.study} in {store.shown} has no trial; run `regionr1 sweep {plan.path}`"
        )
    return opened


def parse_fixed(options: Sequence[str]) -> dict[str, Value]:
    """`--key value` pairs for every trial.

    Raises:
        UserError: If they are not pairs.
    """
    fixed: dict[str, Value] = {}
    remaining = iter(options)
    for name in remaining:
        key, equals, value = name.removeprefix("--").partition("=")
        found = value if equals else next(remaining, None)
        if not name.startswith("--") or found is None:
            raise UserError(f"options after -- come as --key value, not {name!r}")
        try:
            fixed[key] = yaml.safe_load(found)
        except yaml.YAMLError as error:
            raise UserError(f"the value of {name} after -- is not YAML; quote it") from error
    return fixed
