"""Lightning datamodules and the samplers they use."""

from datamodules.balancing import OnlineBalanceArgs
from datamodules.benchmarks import BenchmarkDataModule
from datamodules.difficulty import DifficultyArgs
from datamodules.images import PictureDataModule
from datamodules.pair_sources import PairSourceArgs
from datamodules.pair_weights import PairWeightArgs
from datamodules.preferences import PreferenceDataModule
from datamodules.prompts import PromptDataModule
from datamodules.sentence_pairs import SentencePairDataModule, SentencePairSourceArgs
from datamodules.sources import SourceArgs
from lit_uniopd.utils.own_folder import own_folder

__path__ += own_folder(__name__, __path__)

__all__ = [
    "BenchmarkDataModule",
    "DifficultyArgs",
    "OnlineBalanceArgs",
    "PairSourceArgs",
    "PairWeightArgs",
    "PictureDataModule",
    "PreferenceDataModule",
    "PromptDataModule",
    "SentencePairDataModule",
    "SentencePairSourceArgs",
    "SourceArgs",
]
