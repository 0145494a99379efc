"""Modules of the installed lmms-eval by themselves: its packages import much that its rules do not need."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("", ".api", ".filters", ".tasks")
"""Those with an ``__init__`` file."""


@contextmanager
def bare_lmms_eval(downloads: Path) -> Iterator[Any]:
    """Its packages without what their ``__init__`` files import, and a function that imports one of its modules.

    Tasks that ask a judge import ``openai``, which is not installed and not asked; the registry of metrics imports
    models; VisuLogic's task downloads its data set when it is imported, for which `downloads` stands.
    """
    spec = importlib.util.find_spec("lmms_eval")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("lmms_eval", "openai")}
    for name in before:
        del sys.modules[name]
    for name in PACKAGES:
        package = ModuleType(f"lmms_eval{name}")
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        package.__spec__ = spec if package.__name__ == "lmms_eval" else None
        sys.modules[package.__name__] = package
    openai, registry = (_stand_in(name) for name in ("openai", "lmms_eval.api.registry"))
    openai.OpenAI = lambda **_: None
    registry.register_metric = registry.register_aggregation = lambda *_, **__: lambda function: function
    hub: Any = importlib.import_module("huggingface_hub")
    download, hub.snapshot_download = hub.snapshot_download, lambda **_: str(downloads)
    try:
        yield _imported
    finally:
        hub.snapshot_download = download
        for name in [name for name in sys.modules if name.split(".")[0] in ("lmms_eval", "openai")]:
            del sys.modules[name]
        sys.modules.update(before)


def _imported(name: str) -> Any:
    with warnings.catch_warnings():  # about the package's own texts, the first time that it is compiled
        warnings.filterwarnings("ignore", "invalid escape sequence")
        return importlib.import_module(f"lmms_eval.{name}")


def _stand_in(name: str) -> Any:
    sys.modules[name] = ModuleType(name)
    return sys.modules[name]
