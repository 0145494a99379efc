"""Object hallucination: which objects a text names, and whether the picture has them."""

from lit_uniopd.hallucination.amber import AmberCounts as AmberCounts
from lit_uniopd.hallucination.amber import amber_counts as amber_counts
from lit_uniopd.hallucination.bootstrap import PRESETS as PRESETS
from lit_uniopd.hallucination.bootstrap import BootstrapArgs as BootstrapArgs
from lit_uniopd.hallucination.bootstrap import Bootstrapper as Bootstrapper
from lit_uniopd.hallucination.chair import ChairCounts as ChairCounts
from lit_uniopd.hallucination.chair import ChairScores as ChairScores
from lit_uniopd.hallucination.chair import chair as chair
from lit_uniopd.hallucination.chair import chair_counts as chair_counts
from lit_uniopd.hallucination.lexicon import Lexicon as Lexicon
from lit_uniopd.hallucination.lexicon import chair_words as chair_words
from lit_uniopd.hallucination.lexicon import coco as coco
from lit_uniopd.hallucination.pairs import build_pairs as build_pairs
from lit_uniopd.hallucination.sentences import label_sentences as label_sentences
from lit_uniopd.hallucination.verdicts import cross_check as cross_check
