"""Lightning datamodules and the samplers they use."""

from datamodules.prompts import PromptDataModule
from datamodules.sources import SourceArgs

__all__ = ["PromptDataModule", "SourceArgs"]
