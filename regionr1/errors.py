"""The one error a user should ever see without a traceback, and its commonest cause."""


class UserError(Exception):
    """Bad input from outside. The message is one sentence: what, where, and the mend."""


def at_least_one(**values: int) -> None:
    """Refuses counts below 1.

    Raises:
        UserError: Naming the first.
    """
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{name}={value}: must be at least 1.")
