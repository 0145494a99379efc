"""Adapters: from the rows of a data set to examples."""

from collections.abc import Mapping
from types import MappingProxyType

from lit_uniopd.benchmarks.adapters import columns, evalplus, livecodebench, pictures, texts
from lit_uniopd.benchmarks.adapters.base import Adapted as Adapted
from lit_uniopd.benchmarks.adapters.base import Adapter as Adapter
from lit_uniopd.benchmarks.adapters.base import AdapterContext as AdapterContext

ADAPTERS: Mapping[str, Adapter] = MappingProxyType(
    {
        "annotated": pictures.annotated,
        "columns": columns.columns,
        "dynamath": pictures.dynamath,
        "evalplus": evalplus.evalplus,
        "gsm8k": texts.gsm8k,
        "hallusion": pictures.hallusion,
        "ifeval": texts.ifeval,
        "livecodebench": livecodebench.livecodebench,
        "mathvision": pictures.mathvision,
        "scienceqa": pictures.scienceqa,
        "visulogic": pictures.visulogic,
        "we_math": pictures.we_math,
    }
)
"""Name in YAML -> adapter."""
