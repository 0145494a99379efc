"""Versions of the software that a run's numbers depend on. Light imports: ``uniopd --version`` answers at once."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

STACK = (
    "lit-uniopd",
    "torch",
    "lightning",
    "transformers",
    "peft",
    "torchmetrics",
    "datasets",
    "bitsandbytes",
    "tensorboard",
    "jsonargparse",
    "math-verify",
)


def versions(names: Sequence[str] = STACK) -> dict[str, str]:
    """Python's and the packages' versions; ``not installed`` where there is none."""
    result = {"python": platform.python_version()}
    for name in names:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = "not installed"
    return result


def versions_text() -> str:
    """A line each."""
    return "\n".join(f"{name} {number}" for name, number in versions().items())
