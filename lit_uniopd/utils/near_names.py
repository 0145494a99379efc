"""What somebody meant who has misspelt a name."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """The nearest name that there is, in brackets with a blank before them; empty if none is near.

    Args:
        name: as it was written.
        known: all there are.
        prefix: stands before the name that is shown.

    Example:
        >>> did_you_mean("exat", ["exact", "math"])
        ' (did you mean exact?)'
        >>> did_you_mean("poem", ["exact", "math"])
        ''
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""
