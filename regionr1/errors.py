"""The one error that a user should ever see without a traceback.

Its commonest cause stands here too, its way out of another process, and the end by a signal.
"""

import re
import signal

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


class Interrupted(KeyboardInterrupt):
    """A signal ended the command, and what had to be kept is kept.

    Args:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What a shell expects of a command that a signal ended: 130 after Ctrl-C, 143 after TERM."""
    return 128 + getattr(interrupt, "signum", signal.SIGINT)


HIDDEN = "***"
"""What is shown in the place of a password or token."""
_SECRETS = (
    # A password may hold any character, `/` and `@` among them, and ends before the last `@`. Where
    # a text begins with an address, its password may hold blanks too; elsewhere a blank ends it.
    (re.compile(r"\A(\w[\w+.-]*://[^:/\s]*):.+@", re.DOTALL), r"\1:***@"),
    (re.compile(r"(://[^:/\s]*):\S+@"), r"\1:***@"),
    (
        re.compile(
            r"([?&][\w-]*(?:token|key|secret|password|signature|credential|sig)[\w-]*=)[^&\s'\"]+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
)


def redacted(text: str) -> str:
    """Hide the passwords and tokens of the addresses in a text.

    Where it is unclear what belongs to a password, too much is hidden: of
    `http://host:80/a@b`, which has none, `http://host:***@b` is left.
    """
    for secret, shown in _SECRETS:
        text = secret.sub(shown, text)
    return text


def sentence(error: BaseException) -> str:
    """Return an error's message on one line, without secrets or another process's traceback."""
    return redacted(" ".join(_IN_A_TRACEBACK.split(str(error))[-1].split()))


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
