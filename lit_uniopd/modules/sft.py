"""Supervised fine-tuning: how experts and starting points are made."""

from collections.abc import Iterator
from heapq import nlargest
from typing import NamedTuple

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_uniopd.benchmarks.shards import EvalBatch
from lit_uniopd.errors import UserError
from lit_uniopd.memory import Workload
from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.modules.lengths import beyond_positions
from lit_uniopd.modules.optimization import default_optimizer
from lit_uniopd.modules.run_objections import end_objections
from lit_uniopd.modules.step_mean import StepMean
from lit_uniopd.modules.unlike_prompts import unlike_system_prompts
from lit_uniopd.monitoring.tensorboard_layout import Charts
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.chat_template import without_end
from lit_uniopd.types import Prompt, PromptBatch
from lit_uniopd.utils.objections import Objection


class AnswerLoss(NamedTuple):
    """The loss of a few answers."""

    loss: Tensor
    """Mean negative log-prob of their tokens."""
    cut: float
    """Share of answers that were cut to ``max_answer_tokens``."""
    tokens: int
    """How many tokens the mean is over."""


class SFT(PolicyModule):
    """Maximise the likelihood of given answers, the end of the answer included (see ``answer_end``).

    The data are those of ``PromptDataModule``; `answer_column` names the column of the whole text to learn. Every token
    of an optimizer step counts alike, whatever the batch size, ``accumulate_grad_batches`` and the number of ranks.

    Args:
        policy: the model to train.
        max_answer_tokens: longer answers are cut (and counted in `train/truncated`), without an end-of-sequence token.
        optimizer: from parameters to an optimizer; write out every argument.
        lr_scheduler: from an optimizer to a schedule, stepped once per optimizer step; null: constant.
        seed: of dropout; null: that of `--seed_everything`, else 0.
        gradient_clip: largest norm of the gradient; null: no clipping.
    """

    def __init__(
        self,
        policy: PolicyArgs,
        max_answer_tokens: int = 4096,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__(
            policy,
            flag="model.policy",
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            seed=seed,
            gradient_clip=gradient_clip,
            answers_heldout=False,
        )
        if max_answer_tokens < 1:
            raise UserError(
                f"--model.max_answer_tokens must be at least 1, got {max_answer_tokens}; give one that no answer "
                "exceeds to cut none."
            )
        self.max_answer_tokens = max_answer_tokens
        self.step_mean = StepMean()
        self.trained = WeightedMeans()
        self.validated = WeightedMeans()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        end, empty = self.answer_end, 0
        prompts = self.trainer_data.prompts("train", "val")
        for prompt in prompts:
            if not isinstance(prompt.gold, str) or not prompt.gold:
                raise UserError(
                    f"Prompt {prompt.id!r} has no text to learn from; name the column that holds it by `answer_column`."
                )
            empty += not without_end(prompt, prompt.gold, end).strip()
        if empty:
            rank_zero_warn(
                f"{empty} of {len(prompts)} answers are empty: all that they teach is to end at once; remove those "
                "rows if that is not meant."
            )

    def objections(self) -> Iterator[Objection]:
        yield from super().objections()
        yield from end_objections(self.answer_end, self.policy_flag)
        data = self.trainer_data
        yield from unlike_system_prompts(data.prompts("train"), data.prompts("val"))
        yield from beyond_positions(
            self.policy_args,
            self.policy_flag,
            prompt=self.longest_prompt(data.prompts("train")),
            answer=self.longest_answer(),
            option="--model.max_answer_tokens",
        )

    def longest_answer(self) -> int:
        """Tokens of the longest answer, as far as those of most characters tell, after the cut."""
        candidates = nlargest(4, self.trainer_data.prompts("train"), key=lambda prompt: len(str(prompt.gold)))
        answers = [len(self.encode_answer(prompt, str(prompt.gold))[1]) for prompt in candidates]
        return min(max(answers, default=0), self.max_answer_tokens)

    def workload(self) -> Workload:
        size, prompts = self.trainer_data.batch_size, self.trainer_data.prompts("train")
        longest = self.longest_prompt(prompts) + self.longest_answer()
        return Workload(train_tokens=size * longest, longest_row=longest, tokens_flag="--data.batch_size {rows}")

    def essential_charts(self) -> Charts:
        return {"Loss": ["train/loss", *(["val/loss"] if self.trainer.enable_validation else [])]}

    def on_train_start(self) -> None:
        super().on_train_start()
        self.step_mean.restart()
        self.trained = WeightedMeans()

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        self.reseed("sft", self.global_step, batch_idx)
        loss, cut, tokens = self.answer_loss(batch.prompts)
        self.trained.add("train/loss", loss.detach() * tokens, tokens)
        self.trained.add("train/truncated", cut * len(batch), len(batch))
        return self.step_mean.weighted(self, loss, tokens)

    def on_after_backward(self) -> None:
        self.step_mean.after_backward(self)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the step's answers, those of all accumulated batches and ranks together."""
        super().on_before_optimizer_step(optimizer)
        values, self.trained = self.trained.reduce(self), WeightedMeans()
        self.log_dict(values, prog_bar=True)

    def validation_step(self, batch: PromptBatch | EvalBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if isinstance(batch, EvalBatch):
            super().validation_step(batch, batch_idx, dataloader_idx)
        elif len(batch):
            loss, _, tokens = self.answer_loss(batch.prompts)
            self.validated.add("val/loss", loss * tokens, tokens)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.validated = WeightedMeans()
        self.validated.expect("val/loss")  # a rank may have no row

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log_dict(self.validated.reduce(self), prog_bar=True)

    def answer_loss(self, prompts: tuple[Prompt, ...]) -> AnswerLoss:
        """Loss of the answers of some prompts, and how many tokens and cuts they have."""
        answers = [self.encode_answer(prompt, str(prompt.gold))[1] for prompt in prompts]
        cut = sum(len(answer) > self.max_answer_tokens for answer in answers) / len(answers)
        rows = [torch.tensor(answer[: self.max_answer_tokens]) for answer in answers]
        tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask_BT = torch.arange(tokens_BT.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        encoded = [self.policy.encode(prompt) for prompt in prompts]
        logps_BT, _ = self.policy.token_logps(
            [prompt.tokens for prompt in encoded], tokens_BT, mask_BT, vision=[prompt.vision for prompt in encoded]
        )
        tokens = int(mask_BT.sum())
        return AnswerLoss(-logps_BT.sum() / tokens, cut, tokens)
