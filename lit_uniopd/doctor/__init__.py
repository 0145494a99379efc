"""What could go wrong with a run, looked at before its first step (docs/doctor.md).

What is named here is imported when it is used: ``uniopd doctor --help`` needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_uniopd.doctor.all_checks import run_all_checks
    from lit_uniopd.doctor.console import show
    from lit_uniopd.doctor.findings import Finding, exit_status

__all__ = ["Finding", "exit_status", "run_all_checks", "show"]

_MODULES = {"Finding": "findings", "exit_status": "findings", "run_all_checks": "all_checks", "show": "console"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
