"""The exceptions and warnings a user is meant to read, and exit statuses that tell whether to start a run again."""

from rich.console import Console

AGAIN = 75  # not finished, start it again (EX_TEMPFAIL of sysexits.h)
GIVE_UP = 70  # a run that hung twice without having come further: it is no accident (EX_SOFTWARE)


class UserError(ValueError):
    """Bad input or configuration; the message names where it is and how to mend it.

    Recipes print it without a traceback and exit with status 2.
    """


class GivenUp(RuntimeError):
    """The run has hung twice without having come further. Recipes print it and exit with status GIVE_UP."""


class Stopped(BaseException):
    """The run was asked to end before its time and has kept everything: the same command continues it.

    No `Exception`, so that nothing that retries takes it for a fault. Recipes print it and exit with status AGAIN.
    """


def warn(text: str, console: Console | None = None) -> None:
    """A line that is not to be overlooked, on stderr or a console that is in use; nothing ends."""
    (console or Console(stderr=True)).print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
