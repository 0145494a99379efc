"""Object hallucination: which objects a text names, and whether the picture has them.

What needs torch is imported when first used, so that grading a caption does not load it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lit_uniopd.hallucination.amber import AmberCounts as AmberCounts
from lit_uniopd.hallucination.amber import amber_counts as amber_counts
from lit_uniopd.hallucination.chair import ChairCounts as ChairCounts
from lit_uniopd.hallucination.chair import ChairScores as ChairScores
from lit_uniopd.hallucination.chair import chair as chair  # not lazy: the function must hide the submodule
from lit_uniopd.hallucination.chair import chair_counts as chair_counts
from lit_uniopd.hallucination.lexicon import Lexicon as Lexicon
from lit_uniopd.hallucination.lexicon import chair_words as chair_words
from lit_uniopd.hallucination.lexicon import coco as coco
from lit_uniopd.hallucination.verdicts import cross_check as cross_check

if TYPE_CHECKING:
    from lit_uniopd.hallucination.bootstrap import PRESETS as PRESETS
    from lit_uniopd.hallucination.bootstrap import BootstrapArgs as BootstrapArgs
    from lit_uniopd.hallucination.bootstrap import Bootstrapper as Bootstrapper
    from lit_uniopd.hallucination.pairs import build_pairs as build_pairs
    from lit_uniopd.hallucination.sentences import label_sentences as label_sentences
else:
    _SUBMODULES = {
        "PRESETS": "bootstrap",
        "BootstrapArgs": "bootstrap",
        "Bootstrapper": "bootstrap",
        "build_pairs": "pairs",
        "label_sentences": "sentences",
    }

    def __getattr__(name: str) -> Any:
        if name not in _SUBMODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_SUBMODULES[name]}"), name)
