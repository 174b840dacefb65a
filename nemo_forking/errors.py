"""The one exception a user is meant to read."""


class UserError(ValueError):
    """Bad input or configuration; the message names where it is and how to mend it.

    Recipes print it without a traceback and exit with status 2.
    """
