"""Errors that a user can mend: one line that says what, where and how to cure it."""


class UserError(Exception):
    """Bad input: a file, row, field, configuration, checkpoint or cluster.

    The command line prints the message as one line, without a traceback, and exits
    with code 2. Anything else that escapes is a bug and keeps its traceback.
    """
