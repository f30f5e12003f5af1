"""The one exception that is addressed to the user."""


class UserError(Exception):
    """An error that the user can fix: the message says what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """
