"""Where a study is kept: sqlite, a journal file or PostgreSQL, shared by any number of workers."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from regionr1.errors import UserError, redacted
from regionr1.sweep.plan import SweepPlan
from regionr1.tracking.store import SQLITE_PREFIX, sqlite_file

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

JOURNAL_PREFIX = "journal:"
POSTGRESQL = "postgresql://"
DRIVER = (
    "postgresql+psycopg://"  # which of several SQLAlchemy takes by itself depends on its version
)
MAX_RETRIES = 3  # of a trial whose worker died, before it counts as failed


def _refuse_other_space(plan: SweepPlan, study: Study) -> None:
    """Optuna takes other limits of a number in one study, but no other choices, kind or scale."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    for trial in study.get_trials(deepcopy=False):
        for parameter in plan.space:
            known = trial.distributions.get(parameter.name)
            if known is None:
                continue
            if isinstance(known, CategoricalDistribution):
                same = parameter.kind == "categorical" and known.choices == parameter.choices
            else:
                assert isinstance(known, IntDistribution | FloatDistribution)
                kind = "int" if isinstance(known, IntDistribution) else "float"
                same = (parameter.kind, parameter.log) == (kind, known.log)
            if not same:
                raise UserError(
                    f"{plan.path}: study {plan.study} searched {parameter.name} otherwise "
                    f"({known}); give the sweep file another study name"
                )


class StudyStore:
    """A place for studies, and the lock that makes claiming a trial exclusive.

    Args:
        url: `sqlite:///FILE`, `journal:FILE` or `postgresql://USER@HOST/DATABASE`.
        heartbeat_s: Seconds between two signs of life of a running trial. One that was silent for
            twice as long is taken up by another worker. A journal file knows no signs of life.

    Raises:
        UserError: If the URL is none of these.
    """

    def __init__(self, url: str, heartbeat_s: int = 30) -> None:
        if heartbeat_s < 1:
            raise UserError(f"--heartbeat_s must be at least 1, not {heartbeat_s}")
        self.heartbeat_s = heartbeat_s
        self.file: Path | None = None
        if url.startswith(SQLITE_PREFIX):
            self.file = sqlite_file(url)
            url = f"{SQLITE_PREFIX}{self.file}"
        elif url.startswith(JOURNAL_PREFIX):
            self.file = Path(url.removeprefix(JOURNAL_PREFIX)).resolve()
            url = f"{JOURNAL_PREFIX}{self.file}"
        elif url.startswith(POSTGRESQL):
            url = DRIVER + url.removeprefix(POSTGRESQL)
        elif not url.startswith(DRIVER):
            raise UserError(
                f"--storage {url!r} is no place for a study; give sqlite:///FILE, journal:FILE or "
                "postgresql://USER@HOST/DATABASE"
            )
        self.url = url

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return redacted(self.url)

    @property
    def has_heartbeats(self) -> bool:
        """Whether a worker that died is noticed."""
        return not self.url.startswith(JOURNAL_PREFIX)

    @contextmanager
    def lock(self, study: str) -> Iterator[None]:
        """Excludes all other workers of the study, on this machine or any other."""
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.file.with_name(f".{self.file.name}.lock")):
                yield
            return
        from sqlalchemy import create_engine, text

        key = int.from_bytes(hashlib.sha256(study.encode()).digest()[:7], "big")
        with ExitStack() as stack:
            try:
                engine = create_engine(self.url)
                stack.callback(engine.dispose)
                connection = stack.enter_context(engine.connect())
                # held until the connection closes, which dying does too
                connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
            except Exception as error:  # every driver has errors of its own
                raise UserError(f"cannot open {self.shown}: {_reason(error)}") from error
            yield

    def open(self, plan: SweepPlan) -> Study:
        """The plan's study, made where there is none; the caller holds the lock.

        Raises:
            UserError: If the storage cannot be used, or the study optimises something else.
        """
        import optuna
        from optuna.study import StudyDirection

        quiet_optuna()
        try:
            study = optuna.create_study(
                storage=self._storage(),
                study_name=plan.study,
                directions=[StudyDirection[name.upper()] for name in plan.directions],
                sampler=plan.make_sampler(),
                pruner=plan.make_pruner(),
                load_if_exists=True,
            )
        except Exception as error:  # every driver has errors of its own
            raise UserError(f"cannot open the study in {self.shown}: {_reason(error)}") from error
        found = [direction.name.lower() for direction in study.directions]
        made_for = study.user_attrs.get("metrics", list(plan.metrics))
        if found != list(plan.directions) or made_for != list(plan.metrics):
            raise UserError(
                f"study {plan.study} in {self.shown} optimises {', '.join(made_for)} "
                f"({', '.join(found)}); give the sweep file another study name"
            )
        if "metrics" not in study.user_attrs:
            study.set_user_attr("metrics", list(plan.metrics))
        _refuse_other_space(plan, study)
        return study

    def _storage(self) -> BaseStorage:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        if not self.has_heartbeats:
            assert self.file is not None
            self.file.parent.mkdir(parents=True, exist_ok=True)
            return optuna.storages.JournalStorage(JournalFileBackend(str(self.file)))
        # sqlite waits for other writers instead of failing after 5 s
        engine = {"connect_args": {"timeout": 60}} if self.file else {"pool_pre_ping": True}
        return optuna.storages.RDBStorage(
            self.url,
            engine_kwargs=engine,
            heartbeat_interval=self.heartbeat_s,
            grace_period=2 * self.heartbeat_s,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(
                max_retry=MAX_RETRIES
            ),
        )


def quiet_optuna() -> None:
    """Drops notes on every trial, which the sweep prints itself, and on experimental parts."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A trial that fails or is interrupted has its sentence; Optuna would add a traceback.
    logging.getLogger("optuna.study").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split("(Background on")[0].split()) or type(error).__name__
