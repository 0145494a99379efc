"""Paths with a scheme, ``playground:student``, and of models."""

import pkgutil
from pathlib import Path

from lit_uniopd.errors import UserError

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


def is_local_model(path: str) -> bool:
    """Whether a model's path can only be one on this machine, and is no hub id."""
    return Path(path).exists() or has_scheme(path) or path.startswith((".", "/", "~"))


def no_directory(flag: str, path: str) -> UserError:
    """That a model's path, which is one on this machine, leads to no directory.

    Args:
        flag: the option that it came from (``--model.student.path``).
        path: as it was given.
    """
    return UserError(f"{flag} {path}: there is no such directory; mend the path, or give a hub id.")
