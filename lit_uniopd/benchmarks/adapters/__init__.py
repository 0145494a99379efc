"""Adapters: from the rows of a data set to examples."""

from collections.abc import Mapping
from types import MappingProxyType

from lit_uniopd.benchmarks.adapters import columns, evalplus, images, livecodebench, sedareval, texts
from lit_uniopd.benchmarks.adapters.base import Adapted as Adapted
from lit_uniopd.benchmarks.adapters.base import Adapter as Adapter
from lit_uniopd.benchmarks.adapters.base import AdapterContext as AdapterContext

ADAPTERS: Mapping[str, Adapter] = MappingProxyType(
    {
        "amber": images.amber,
        "annotated": images.annotated,
        "columns": columns.columns,
        "evalplus": evalplus.evalplus,
        "gsm8k": texts.gsm8k,
        "hallusion": images.hallusion,
        "ifeval": texts.ifeval,
        "livecodebench": livecodebench.livecodebench,
        "mathvision": images.mathvision,
        "scienceqa": images.scienceqa,
        "sedareval": sedareval.sedareval,
        "visulogic": images.visulogic,
        "we_math": images.we_math,
    }
)
"""Name in YAML -> adapter."""
