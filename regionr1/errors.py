"""The one error a user should ever see without a traceback."""


class UserError(Exception):
    """Bad input from outside. The message is one sentence: what, where, and the mend."""
