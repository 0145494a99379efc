"""The prompts: differences modulo 5, in the language of the playground's models."""

from typing import Any

from datamodules.loaders import ResumableLoader, StreamDataModule
from datamodules.samplers import ResumableBatchSampler
from lit_uniopd.rewards import named_grader
from lit_uniopd.types import Prompt, PromptBatch


class Differences(StreamDataModule):
    """`a - b - c` modulo 5.

    Args:
        batch_size: prompts of a rollout.
        seed: of their order.
    """

    def __init__(self, batch_size: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed
        every = [self.prompt(a, b, c) for a in range(5) for b in range(1, 5) for c in range(1, 5)]
        self.train_prompts, self.val_prompts = every[:64], every[64:]

    @staticmethod
    def prompt(a: int, b: int, c: int) -> Prompt:
        question = ({"role": "user", "content": f"M{a}-{b}-{c}%="},)
        return Prompt(
            id=f"{a}-{b}-{c}",
            messages=question,
            gold=str((a - b - c) % 5),
            domain="math",
            grader=named_grader("my_grader.is_right"),  # by name alone data would choose code
        )

    def train_dataloader(self) -> Any:
        rank, ranks = self.rank_and_world_size()
        order = ResumableBatchSampler(
            [len(self.train_prompts)], batch_size=self.batch_size, seed=self.seed, rank=rank, world_size=ranks
        )
        return ResumableLoader(self.train_prompts, order, PromptBatch, self.unfinished_batches)

    def val_dataloader(self) -> Any:
        return self.evaluation_loader(self.val_prompts, 16, PromptBatch)
