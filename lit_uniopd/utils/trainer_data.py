"""What a module or a callback may read off the trainer's datamodule."""

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any, Literal

from lightning import Trainer

from lit_uniopd.types import EncodedPair, Prompt

Split = Literal["train", "val", "test", "predict"]


class TrainerData:
    """The data behind a trainer: any `LightningDataModule` with some of these attributes will do, and so will none.

    Args:
        trainer: of the run; without a datamodule everything is empty.

    Attributes:
        datamodule: the trainer's, or None.
        callbacks: the trainer's.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.datamodule: Any = getattr(trainer, "datamodule", None)
        self.callbacks: list[Any] = list(getattr(trainer, "callbacks", ()))

    def prompts(self, *splits: Split) -> Sequence[Prompt]:
        """Prompts of splits, one after the other, as ``setup`` has read them. They may be made when asked for."""
        return _joined(*(getattr(self.datamodule, f"{split}_prompts", ()) for split in splits))

    @property
    def train_pairs(self) -> Sequence[EncodedPair]:
        """They may be made when asked for."""
        return _joined(getattr(self.datamodule, "train_pairs", ()))

    @property
    def val_pairs(self) -> Sequence[EncodedPair]:
        return _joined(getattr(self.datamodule, "val_pairs", ()))

    @property
    def pairs(self) -> Sequence[EncodedPair]:
        """Those of training, then those of validation."""
        return _joined(self.train_pairs, self.val_pairs)

    @property
    def benchmarks(self) -> list[Any] | None:
        """The benchmarks to answer (`lit_uniopd.benchmarks.spec.Benchmark`); None: the data are of another kind."""
        return getattr(self.datamodule, "benchmarks", None)

    @property
    def max_rows(self) -> int | None:
        """Answers to benchmarks that are written at the same time; None where the datamodule has none."""
        return getattr(self.datamodule, "max_rows", None)

    @property
    def judge(self) -> Any:
        """Who judges answers to benchmarks (`lit_uniopd.benchmarks.judging.args.JudgeArgs`); None: nobody."""
        return getattr(self.datamodule, "judge", None)

    @property
    def benchmarks_in_fit(self) -> list[Any]:
        """Benchmarks that are answered while it trains, those of callbacks that have ``load_benchmarks`` included."""
        loaders = [getattr(callback, "load_benchmarks", list) for callback in self.callbacks]
        return [*(self.benchmarks or ()), *(benchmark for load in loaders for benchmark in load())]

    @property
    def reports(self) -> dict[str, Any]:
        """What became of the rows of each source, by split or option."""
        return dict(getattr(self.datamodule, "report", {}))

    @property
    def difficulty_report(self) -> Any:
        """Prompts by difficulty, before and after offline balancing (`datamodules.difficulty`); None without it."""
        return getattr(self.datamodule, "difficulty_report", None)

    @property
    def batch_size(self) -> int:
        """Prompts or pairs of a training step on each rank; 1 where the datamodule does not say."""
        return getattr(self.datamodule, "batch_size", 1)

    @property
    def val_batch_size(self) -> int:
        """Prompts or pairs of a validation step on each rank; 8 where the datamodule does not say."""
        return getattr(self.datamodule, "val_batch_size", 8)


def _joined(*parts: Any) -> Any:
    """Sequences as one; those that make their rows when asked for are not copied."""
    rows: list[Any] = [
        list(part) if isinstance(part, tuple) or not isinstance(part, Sequence) else part for part in parts
    ]
    return reduce(add, rows) if rows else []
