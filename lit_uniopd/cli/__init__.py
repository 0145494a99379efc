"""``uniopd``: the command line. What is named here is imported when it is used: ``uniopd --help`` needs no torch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_uniopd.cli.app import UniOPDCLI
    from lit_uniopd.cli.entry_point import main

__all__ = ["UniOPDCLI", "main"]

_MODULES = {"UniOPDCLI": "app", "main": "entry_point"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
