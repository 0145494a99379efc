"""Input and output of an adapter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_uniopd.benchmarks.spec import BenchmarkSpec, Example


@dataclass(frozen=True, slots=True)
class AdapterContext:
    """The settings of the run that adapters read."""

    profile: str
    fixture: bool
    cache_dir: Path


@dataclass(frozen=True, slots=True)
class Adapted:
    """The examples that an adapter made of the rows."""

    examples: list[Example]
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason -> number of rows that are not scored."""


Adapter = Callable[[Sequence[Mapping[str, Any]], BenchmarkSpec, AdapterContext], Adapted]
