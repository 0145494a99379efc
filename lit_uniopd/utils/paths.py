"""Paths with a scheme: ``playground:student``."""

import pkgutil

SCHEMES = {"playground": "lit_uniopd.playground.locate:locate"}
"""Scheme -> the function that makes a path of the name behind the colon; imported when such a path is met."""


def resolve_path(path: str) -> str:
    """The file or directory behind ``playground:NAME``; any other path as it is.

    Raises:
        UserError: if the scheme knows no such name.
    """
    scheme, colon, name = path.partition(":")
    if colon and scheme in SCHEMES:
        return str(pkgutil.resolve_name(SCHEMES[scheme])(name))
    return path


def has_scheme(path: str) -> bool:
    """Whether ``resolve_path`` would make another path of it."""
    return path.partition(":")[0] in SCHEMES and ":" in path
