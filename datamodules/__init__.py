"""Lightning datamodules and the samplers they use."""

from datamodules.benchmarks import BenchmarkDataModule
from datamodules.prompts import PromptDataModule
from datamodules.sources import SourceArgs

__all__ = ["BenchmarkDataModule", "PromptDataModule", "SourceArgs"]
