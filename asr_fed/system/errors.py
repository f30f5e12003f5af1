"""Exceptions that are addressed to the user."""


class UserError(Exception):
    """An error that the user can fix: the message says what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with `status`.
    """

    status = 2


class PartLost(UserError):
    """A process that this one had started has ended by itself: to start again may be enough, as a service does."""

    status = 1
