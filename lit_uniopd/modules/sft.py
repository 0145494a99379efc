"""Supervised fine-tuning: how experts and starting points are made."""

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lit_uniopd.benchmarks.shards import EvalBatch
from lit_uniopd.errors import UserError
from lit_uniopd.memory import Workload
from lit_uniopd.modules.base import PolicyModule, default_optimizer
from lit_uniopd.monitoring.tensorboard_layout import Charts
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.types import Prompt, PromptBatch


class SFT(PolicyModule):
    """Maximise the likelihood of given answers, the end of the answer included.

    The data are those of ``PromptDataModule``; the column named by `answer` holds the whole text to learn.

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
        self.max_answer_tokens = max_answer_tokens
        self.validated = WeightedMeans()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        for prompt in self.trainer_data.prompts("train") + self.trainer_data.prompts("val"):
            if not isinstance(prompt.gold, str) or not prompt.gold:
                raise UserError(
                    f"Prompt {prompt.id!r} has no text to learn from; name the column that holds it by `answer`."
                )

    def workload(self) -> Workload:
        size, prompts = self.trainer_data.batch_size, self.trainer_data.prompts("train")
        candidates = sorted(prompts, key=lambda prompt: -len(str(prompt.gold)))[:4]
        answers = [len(self.encode_answer(prompt, str(prompt.gold))[1]) for prompt in candidates]
        longest = self.longest_prompt(prompts) + min(max(answers, default=0), self.max_answer_tokens)
        return Workload(train_tokens=size * longest, longest_row=longest, tokens_flag="--data.batch_size {rows}")

    def essential_charts(self) -> Charts:
        return {"Loss": ["train/loss", *(["val/loss"] if self.trainer.enable_validation else [])]}

    def training_step(self, batch: PromptBatch, batch_idx: int) -> Tensor:
        self.reseed("sft", self.global_step)
        loss, cut = self.answer_loss(batch.prompts)
        self.log_dict({"train/loss": loss, "train/truncated": cut}, batch_size=len(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: PromptBatch | EvalBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if isinstance(batch, EvalBatch):
            super().validation_step(batch, batch_idx, dataloader_idx)
        elif len(batch):
            loss, _ = self.answer_loss(batch.prompts)
            self.validated.add("val/loss", loss * len(batch), len(batch))

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.validated = WeightedMeans()
        self.validated.expect("val/loss")  # a rank may have no row

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log_dict(self.validated.reduce(self), prog_bar=True)

    def answer_loss(self, prompts: tuple[Prompt, ...]) -> tuple[Tensor, float]:
        """Mean negative log-prob of the answers' tokens, and the share of answers that were cut."""
        eos = self.policy.tokenizer.eos_token_id
        answers = [
            self.policy.tokenizer(str(prompt.gold), add_special_tokens=False).input_ids + ([] if eos is None else [eos])
            for prompt in prompts
        ]
        cut = sum(len(answer) > self.max_answer_tokens for answer in answers) / len(answers)
        rows = [torch.tensor(answer[: self.max_answer_tokens]) for answer in answers]
        tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask_BT = torch.arange(tokens_BT.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        encoded = [self.policy.encode(prompt) for prompt in prompts]
        logps_BT, _ = self.policy.token_logps(
            [prompt.tokens for prompt in encoded], tokens_BT, mask_BT, vision=[prompt.vision for prompt in encoded]
        )
        return -logps_BT.sum() / mask_BT.sum(), cut
