"""What goes wrong between a run and its tracking store, in one sentence.

MLflow, SQLAlchemy and the libraries of the network below them raise what they like, so none of
their exceptions is named here: whatever comes from them is told.
"""

import errno
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from regionr1.errors import UserError, redacted, sentence

AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
NO_DATABASE = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
LIBRARIES = ("mlflow", "sqlalchemy", "alembic", "requests", "urllib3")
TOLD = 300  # characters of another library's message


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it came from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def is_of_this_machine(error: BaseException) -> bool:
    """Whether the disk is full, or a file here cannot be written: no server to wait for."""
    for found in chain(error):
        if isinstance(found, sqlite3.Error):
            return getattr(found, "sqlite_errorname", "") not in ("SQLITE_BUSY", "SQLITE_LOCKED")
        if isinstance(found, OSError) and found.errno in LOCAL:
            return True
    return False


def is_away(error: Exception) -> bool:
    """Whether an error means that the server cannot be reached, rather than that it refuses."""
    if is_of_this_machine(error):
        return False
    code = getattr(error, "error_code", None)  # MLflow's
    if code is not None:
        return code in AWAY
    response = getattr(error, "response", None)
    if response is not None:  # of requests, which artifacts go by
        return bool(response.status_code >= 500)
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, ConnectionError | TimeoutError) or package in ("requests", "urllib3")


@contextmanager
def done_without(lost: str) -> Iterator[None]:
    """Has a run go on without what the block logs, when the server is away; refusals are raised.

    Args:
        lost: What the run lacks then, for people.
    """
    try:
        yield
    except Exception as error:
        if not is_away(error):
            raise
        print(f"the tracking server is away: {lost}")


def comes_from_tracking(error: BaseException) -> bool:
    """Whether an exception was raised by MLflow or below it."""
    return any(
        frame.f_globals.get("__name__", "").partition(".")[0] in LIBRARIES
        for found in chain(error)
        for frame, _ in traceback.walk_tb(found.__traceback__)
    )


def refusal(uri: str, error: Exception) -> UserError:
    """What is told of an error of a tracking store, with the mend.

    Args:
        uri: The store.
        error: Whatever was raised.
    """
    told, shown = sentence(error), redacted(uri)
    if "db upgrade" in told or "Can't locate revision" in told:
        return UserError(
            f"the tracking database {shown} is of another MLflow version; make a copy of it, then "
            f"run `mlflow db upgrade {shown}`, or install the newer MLflow that it is of"
        )
    if any(getattr(found, "sqlite_errorname", "") in NO_DATABASE for found in chain(error)):
        return UserError(f"{shown} is not an MLflow database ({told}); set another tracking_uri")
    if is_away(error):
        return UserError(
            f"the tracking server {shown} cannot be reached; start it or set another "
            "MLFLOW_TRACKING_URI"
        )
    if is_of_this_machine(error):
        return UserError(
            f"what a run logs cannot be written to {shown} ({told[:TOLD]}); mend that, then "
            "`regionr1 fit --resume RUN_ID` goes on"
        )
    return UserError(f"the tracking store {shown} refused: {told[:TOLD]}")


def no_run(run: str, uri: str) -> UserError:
    """What is told of a run that a store does not have."""
    shown = redacted(uri)
    return UserError(
        f"there is no run {run!r} in {shown}; `mlflow ui --backend-store-uri {shown}` shows them"
    )


@contextmanager
def refusals(uri: str) -> Iterator[None]:
    """Tells in one sentence what goes wrong with a tracking store in the block.

    Raises:
        UserError: Whatever the block raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise refusal(uri, error) from error
