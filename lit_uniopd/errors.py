"""The one exception that means: the user can mend this, and the message says how."""


class UserError(Exception):
    """A mistake in a flag, a config, a file or a column.

    The message is one sentence that names the flag or column and the remedy. The command line prints it without a
    traceback (unless ``--debug``). Deliberately no ``ValueError``: argument parsers swallow those while they try types.
    """
