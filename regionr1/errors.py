"""The one error that a user should ever see without a traceback.

Its commonest cause stands here too, and its way out of another process.
"""

import re

ERROR_LINE = "regionr1: error: "
"""How the line on stderr begins that ends a command."""


class UserError(Exception):
    """Bad input from outside. The message is one sentence: what, where, and the mend."""


class MachineError(UserError):
    """The machine refused: too many open files, no permission, a full or failing disk.

    What lies on the disk may be intact, so nothing is called damaged or thrown away for it.
    """


_IN_A_TRACEBACK = re.compile(
    rf"{re.escape(__name__)}\.(?:{UserError.__qualname__}|{MachineError.__qualname__}): "
)


def sentence(error: Exception) -> str:
    """Return an error's message on one line, without the traceback of a process it came from."""
    return " ".join(_IN_A_TRACEBACK.split(str(error))[-1].split())


def crossed(error: Exception) -> UserError | None:
    """Find the user error that another process met in what it sent here.

    Data workers and spawned processes send their traceback as text, in an exception of the same
    class or of one of their own.

    Args:
        error: The exception that arrived.

    Returns:
        The user error with its own sentence; None when the process met something else.
    """
    return UserError(sentence(error)) if _IN_A_TRACEBACK.search(str(error)) else None


def at_least_one(**values: int) -> None:
    """Refuse counts below 1.

    Raises:
        UserError: Naming the first.
    """
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{name}={value}: must be at least 1.")
