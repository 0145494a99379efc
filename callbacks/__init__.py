"""Swappable Lightning callbacks, one class a file."""

from callbacks.benchmark_evaluation import BenchmarkEvaluation
from callbacks.difficulty_histogram import DifficultyHistogram
from callbacks.difficulty_writer import DifficultyWriter
from callbacks.hallucination_diagnostics import HallucinationDiagnostics
from callbacks.margin_calibration import MarginCalibration
from callbacks.order_diagnostics import OrderDiagnostics
from callbacks.pair_writer import PairWriter
from callbacks.policy_export import PolicyExport
from callbacks.prediction_writer import PredictionWriter
from callbacks.preference_diagnostics import PreferenceDiagnostics
from callbacks.rollout_browser import RolloutBrowser
from callbacks.rollout_recorder import RolloutRecorder
from callbacks.sentence_pair_writer import SentencePairWriter
from callbacks.thread_probe import ThreadProbe
from lit_uniopd.utils.own_folder import own_folder

__path__ += own_folder(__name__, __path__)

__all__ = [
    "BenchmarkEvaluation",
    "DifficultyHistogram",
    "DifficultyWriter",
    "HallucinationDiagnostics",
    "MarginCalibration",
    "OrderDiagnostics",
    "PairWriter",
    "PolicyExport",
    "PredictionWriter",
    "PreferenceDiagnostics",
    "RolloutBrowser",
    "RolloutRecorder",
    "SentencePairWriter",
    "ThreadProbe",
]
