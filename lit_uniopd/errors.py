"""The one exception that means: the user can mend this, and the message says how."""


def first_line(error: BaseException) -> str:
    """What another library complains about, as a part of one of our sentences: its first line, without a full stop."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(" .:") if text else type(error).__name__


class UserError(Exception):
    """A mistake in a flag, a config, a file or a column.

    The message is one sentence that names the flag or column and the remedy. The command line prints it without a
    traceback (unless ``--debug``). Deliberately no ``ValueError``: argument parsers swallow those while they try types.
    """
