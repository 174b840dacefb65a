"""The exceptions a user is meant to read, and the exit status of what is to be started again."""

AGAIN = 75  # exit status: not finished, start it again (EX_TEMPFAIL of sysexits.h)


class UserError(ValueError):
    """Bad input or configuration; the message names where it is and how to mend it.

    Recipes print it without a traceback and exit with status 2.
    """


class Stopped(BaseException):
    """The run was asked to end before its time and has kept everything: the same command continues it.

    No `Exception`, so that nothing that retries takes it for a fault. Recipes print it and exit with status AGAIN.
    """
