"""The prompts that a student answers: training, validation and prediction data of Uni-OPD."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.balancing import OnlineBalanceArgs, balance_rollouts
from datamodules.difficulty import DifficultyArgs, DifficultyBalancedSampler, DifficultyReport, balance_difficulty
from datamodules.loaders import BatchLoader, ResumableLoader, SourceDataModule, at_least_one, flagged
from datamodules.rows import Chained, MadeOf
from datamodules.sources import PromptTable, SourceArgs, read_prompts
from datamodules.tables import prepare_table
from lit_uniopd.errors import UserError
from lit_uniopd.monitoring.step_log import log_values
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.types import Prompt, PromptBatch, Rollouts
from lit_uniopd.utils.seeding import derive_seed, run_seed

Sources = SourceArgs | list[SourceArgs] | None

_SPLITS: dict[str | None, tuple[str, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
    None: ("train", "val", "test", "predict"),
}
"""Stage of the trainer (None: all, in a notebook) -> the splits that it reads; the first is required."""


@runtime_checkable
class MeasuresPrompts(Protocol):
    """A module that can measure, before its model is loaded, how long a prompt is for its student."""

    def prompt_length(self, prompt: Prompt) -> int:
        """Tokens of the prompt as the student reads it."""
        ...


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What became of the rows of one source."""

    path: str
    rows: int
    too_long: int
    """Dropped: more than ``max_prompt_tokens`` tokens."""
    longest: int | None
    """Tokens of the longest row, dropped or not. None: not measured."""
    without_answer: int
    """Kept, but there is no gold answer to grade with."""
    unusable: Mapping[str, int] = field(default_factory=dict)
    """Dropped of a published format: why -> how many."""

    @property
    def kept(self) -> int:
        return self.rows - self.too_long - sum(self.unusable.values())

    def __str__(self) -> str:
        notes = [f"{self.rows} rows"]
        notes += [f"{count} dropped since {reason}" for reason, count in self.unusable.items()]
        if self.longest is not None:
            notes.append(f"{self.too_long} dropped as too long (longest {self.longest} tokens)")
        if self.without_answer:
            notes.append(f"{self.without_answer} without an answer")
        return f"{self.path}: {', '.join(notes)}; {self.kept} prompts"


class PromptDataModule(SourceDataModule):
    """Prompts from files of many kinds, the hub, or the playground; rows are read where they stand.

    A file with the columns ``prompt`` and ``answer`` (and optionally ``id``, ``domain``, ``teacher``, ``grader``,
    ``images``) needs nothing but its path; other names are given by ``prompt_column`` and so on. All other columns
    reach the grader as ``Prompt.row``.

    Training is an endless, seeded order over all sources (see ``ResumableBatchSampler``) that a resumed run continues
    exactly, also in the middle of an epoch. Batches are always full: what does not fill one at the end of a pass opens
    the next epoch. In validation and prediction every prompt comes exactly once over all ranks; a rank that has run
    out gets empty batches.

    Args:
        train: One source of prompts, or a list of them.
        val: The same for validation. Default: there is none.
        test: The same for `uniopd test`. Default: those of val.
        predict: The same for prediction. Default: those of val.
        batch_size: Prompts per rollout and rank, as everywhere in Lightning; a step takes batch_size * ranks prompts.
            Default: 8.
        global_batch_size: Prompts of a rollout over all ranks, in place of batch_size; of SFT, rows of an optimizer
            step, of which a pass takes batch_size at most and the rest is accumulated.
        val_batch_size: Prompts per validation or prediction batch and rank. Default: batch_size.
        max_prompt_tokens: Longer prompts, in the student's tokens, are dropped, counted and logged. Default: none are.
        shuffle: Draw the training order anew for every pass; false takes the sources one after the other.
        seed: Seed of the training order and of balancing. Default: that of --seed_everything.
        online_balance: Leave answers out of each update so that correct and incorrect ones are balanced. Default: all
            answers train.
        difficulty: Show prompts of medium difficulty more often. Default: every prompt once in a pass.

    Attributes:
        train_prompts: after ``setup``, all training prompts, source after source.
        val_prompts: the same for validation.
        test_prompts: the same for testing.
        predict_prompts: the same for prediction.
        report: ``train``, ``val``, ``predict`` -> what became of the rows of each source.
        prompt_length: measures a prompt in tokens, for use without a trainer; with one, its module's is taken.
    """

    def __init__(
        self,
        train: Sources = None,
        val: Sources = None,
        test: Sources = None,
        predict: Sources = None,
        batch_size: int | None = None,
        val_batch_size: int | None = None,
        max_prompt_tokens: int | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        online_balance: OnlineBalanceArgs | None = None,
        difficulty: DifficultyArgs | None = None,
        global_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.difficulty = difficulty
        self.difficulty_report: DifficultyReport | None = None
        self.online_balance = online_balance
        self.sources = {"train": flagged("train", train), "val": flagged("val", val)}
        self.sources["test"] = flagged("test", test) or self.sources["val"]
        self.sources["predict"] = flagged("predict", predict) or self.sources["val"]
        at_least_one(val_batch_size=val_batch_size, max_prompt_tokens=max_prompt_tokens)
        self.set_batch_size(batch_size, global_batch_size)
        self.val_batch_size = val_batch_size or self.batch_size
        self.max_prompt_tokens = max_prompt_tokens
        self.shuffle = shuffle
        self.seed = seed
        self.prompt_length: Callable[[Prompt], int] | None = None
        self.train_prompts: Sequence[Prompt] = ()
        self.val_prompts: Sequence[Prompt] = ()
        self.test_prompts: Sequence[Prompt] = ()
        self.predict_prompts: Sequence[Prompt] = ()
        self.report: dict[str, list[SourceReport]] = {}

    def prepare_data(self) -> None:
        """Download hub data sets and build the playground, once for all processes."""
        stage = None if self.trainer is None else self.trainer.state.fn
        for split in _SPLITS[stage]:
            for flag, source in self.sources[split].items():
                prepare_table(source, flag)

    def setup(self, stage: str | None = None) -> None:
        """Read the prompts of a stage, or of all of them.

        Raises:
            UserError: naming the flag, the file, the row or the column that is wrong.
        """
        splits = _SPLITS[stage]
        if stage is not None and not self.sources[required := splits[0]]:
            raise UserError(
                f"There are no prompts to {TrainerFn(stage).value} with; name a file or data set by "
                f"--data.{required}.path."
            )
        self.divide_step()
        self._order = None
        for split in splits:
            setattr(self, f"{split}_prompts", self._read(split))
        if "train" in splits and self.difficulty is not None:
            self.difficulty_report = balance_difficulty(self.train_prompts, self.difficulty, run_seed(self.seed))
            self._refuse_emptied(self.difficulty.shape, self.difficulty_report.repeats_P)
        if not self.sources["val"]:
            # Without the method Lightning skips validation; for a loader of no batches it would warn.
            self.val_dataloader = super().val_dataloader

    def _refuse_emptied(self, shape: str, repeats_P: Tensor) -> None:
        """Raise if a source has no prompt left."""
        sources = self.report["train"]
        for source, seen in zip(sources, repeats_P.split([source.kept for source in sources]), strict=True):
            if not seen.any():
                raise UserError(
                    f"--data.difficulty.shape {shape} leaves none of the {source.kept} prompts of {source.path}; "
                    "choose another shape, or take that source out."
                )

    def train_dataloader(self) -> ResumableLoader:
        """The training order; a resumed run goes on in it."""
        sizes = [report.kept for report in self.report["train"]]
        if self.difficulty_report is None:
            return self.training_loader(self.train_prompts, PromptBatch, sizes)
        repeats = self.difficulty_report.repeats_P.split(sizes)
        return self.training_loader(self.train_prompts, PromptBatch, repeats, DifficultyBalancedSampler)

    def val_dataloader(self) -> Any:
        """Each validation prompt once."""
        return self._evaluation_loader(self.val_prompts)

    def test_dataloader(self) -> Any:
        """Each test prompt once."""
        return self._evaluation_loader(self.test_prompts)

    def predict_dataloader(self) -> Any:
        """Each prompt once."""
        return self._evaluation_loader(self.predict_prompts)

    def on_rollouts_scored(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> None:
        """Balance the outcomes of a rollout, before callbacks see it."""
        if self.online_balance is None:
            return
        seed = derive_seed(run_seed(self.seed), "online_balance", trainer.global_step)
        means = WeightedMeans()
        for name, (total, count) in balance_rollouts(rollouts, self.online_balance, seed).items():
            means.add(name, total, count)
        log_values(trainer, means.reduce(pl_module))

    def _evaluation_loader(self, prompts: Sequence[Prompt]) -> BatchLoader:
        return self.evaluation_loader(prompts, self.val_batch_size, PromptBatch)

    def _read(self, split: str) -> Sequence[Prompt]:
        prompts: list[Sequence[Prompt]] = []
        self.report[split] = []
        for flag, source in self.sources[split].items():
            read = read_prompts(source, flag)
            fitting, longest, without_answer = self._fitting(read, source.path)
            report = SourceReport(
                path=source.path,
                rows=len(read) + sum(read.unusable.values()),
                too_long=len(read) - len(fitting),
                longest=longest,
                without_answer=without_answer,
                unusable=read.unusable,
            )
            rank_zero_info(f"{flag} {report}")
            if not fitting:
                raise UserError(
                    f"--data.max_prompt_tokens {self.max_prompt_tokens} drops all {len(read)} prompts of {flag}.path "
                    f"{source.path}, of up to {longest} tokens; raise it."
                )
            prompts.append(fitting)
            self.report[split].append(report)
        return Chained(prompts)

    def _fitting(self, prompts: PromptTable, path: str) -> tuple[Sequence[Prompt], int | None, int]:
        """The prompts that are short enough, the length of the longest of all, and how many lack a gold answer."""
        if self.max_prompt_tokens is None:
            return prompts, None, prompts.without_answer
        measure = self._measure()
        fitting, longest, without_answer = array("q"), 0, 0
        for number, prompt in enumerate(self.tracked(prompts, f"Measuring {path}")):
            longest = max(longest, length := measure(prompt))
            if length <= self.max_prompt_tokens:
                fitting.append(number)
                without_answer += prompt.gold is None
        return MadeOf(prompts, lambda prompt: prompt, fitting), longest, without_answer

    def _measure(self) -> Callable[[Prompt], int]:
        if self.prompt_length is not None:
            return self.prompt_length
        module = None if self.trainer is None else self.trainer.lightning_module
        if not isinstance(module, MeasuresPrompts):
            raise UserError(
                "--data.max_prompt_tokens needs the student's tokenizer: use a module that has prompt_length, set "
                "prompt_length of the datamodule, or leave it out."
            )
        return module.prompt_length
