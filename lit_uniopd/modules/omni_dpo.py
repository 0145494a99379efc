"""Omni-DPO and its baselines: learn from pairs of a better and a worse answer."""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_uniopd.benchmarks.evaluator import Evaluator
from lit_uniopd.benchmarks.shards import EvalBatch
from lit_uniopd.errors import UserError
from lit_uniopd.functional.logps import sequence_logps
from lit_uniopd.functional.preference import PreferenceLoss
from lit_uniopd.modules.averages import Averages
from lit_uniopd.modules.base import PolicyModule, default_optimizer
from lit_uniopd.modules.pair_losses import PairLogps, PairLossArgs, pair_loss
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.types import EncodedPair, PairBatch


class OmniDPO(PolicyModule):
    """Preference learning in which each pair counts by its quality and by how little the policy has mastered it.

    Its data are those of ``PreferenceDataModule``, which computes the quality weights. Optimisation is Lightning's own:
    ``accumulate_grad_batches`` and ``gradient_clip_val`` of the trainer do what they say.

    Args:
        policy: the model to train; as it is before training, it is the reference.
        loss: Omni-DPO, or one of the losses that it is compared with.
        optimizer: from parameters to an optimizer; write out every argument.
        lr_scheduler: from an optimizer to a schedule, stepped once per optimizer step; null: constant.
        seed: of dropout; null: that of `--seed_everything`, else 0.
    """

    def __init__(
        self,
        policy: PolicyArgs,
        loss: PairLossArgs = PairLossArgs(),  # noqa: B008  # never mutated; an instance is what --help can show
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(policy, flag="model.policy", optimizer=optimizer, lr_scheduler=lr_scheduler, seed=seed)
        self.loss = loss
        self.validated = Averages()

    def setup(self, stage: str) -> None:
        """Check the pairs' scores before any model is loaded."""
        super().setup(stage)
        pairs: list[EncodedPair] = list(getattr(getattr(self.trainer, "datamodule", None), "train_pairs", ()))
        if not self.loss.needs_scores or not pairs:
            return
        best = max(encoded.pair.score_chosen for encoded in pairs)
        if best != best:
            raise UserError(
                "Omni-DPO needs scores, and the pairs have none; give --data.train score columns, or switch off "
                "--model.loss.use_quality and --model.loss.use_nll."
            )
        if self.loss.use_nll and self.loss.lam > 0 and best < self.loss.tau_good:
            rank_zero_warn(
                f"The NLL can never act: no chosen answer scores --model.loss.tau_good {self.loss.tau_good} (the best "
                f"has {best:.3g}); lower it to the scale of your scores, or set use_nll false."
            )

    def configure_model(self) -> None:
        super().configure_model()
        if self.loss.needs_reference:
            self.policy.keep_reference()  # before a checkpoint's weights arrive

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        self.reseed("omni_dpo", self.global_step, batch_idx)
        found, logps = self.compare(batch)
        averages = Averages()
        for name, values in _statistics(found, logps).items():
            averages.add(f"train/{name}", values.sum(), len(values))
        weights = found.terms.get("w_quality", 1.0) * found.terms.get("w_performance", torch.ones(len(batch)))
        averages.add("weight", weights.sum(), len(batch))
        averages.add("square", (weights**2).sum(), len(batch))
        values = averages.reduce(self)
        # Of all ranks' pairs together, which a mean of the ranks' shares is not.
        weight, square = values.pop("weight"), values.pop("square")
        values["train/effective_share"] = weight**2 / square if square else 0.0
        self.log_dict(values, batch_size=len(batch), prog_bar=False)
        return found.loss

    def compare(self, batch: PairBatch) -> tuple[PreferenceLoss, PairLogps]:
        """Loss of a batch, and the log-probs that it was made of."""
        prompts, vision = self._prompts(batch)
        answers = [tokens for pair in batch.pairs for tokens in (pair.chosen_tokens, pair.rejected_tokens)]
        tokens_BT = pad_sequence([torch.tensor(tokens) for tokens in answers], batch_first=True)
        lengths_B = torch.tensor([len(tokens) for tokens in answers])
        mask_BT = torch.arange(tokens_BT.shape[1]) < lengths_B[:, None]

        def scored(policy: Policy) -> Tensor:
            logps_BT, _ = policy.token_logps(prompts, tokens_BT, mask_BT, vision=vision)
            return sequence_logps(logps_BT, mask_BT.to(logps_BT.device), average=False).view(-1, 2)

        reference_P2 = None
        if self.loss.needs_reference:
            with torch.no_grad(), self.policy.reference() as reference:
                reference_P2 = scored(reference)
        policy_P2 = scored(self.policy)
        logps = PairLogps(policy_P2, lengths_B.view(-1, 2).to(policy_P2.device), reference_P2)
        columns = [(p.pair.score_chosen, p.pair.score_rejected, p.pair.quality) for p in batch.pairs]
        good, bad, quality = torch.tensor(columns, device=policy_P2.device).unbind(dim=1)
        return pair_loss(self.loss, logps, score_chosen=good, score_rejected=bad, quality=quality), logps

    def _prompts(self, batch: PairBatch) -> tuple[list[Any], list[Any] | None]:
        """Each prompt twice, with what the processor makes of its pictures."""
        encoded = [self.policy.encode(pair.pair.prompt) if pair.pair.prompt.images else None for pair in batch.pairs]
        prompts = [
            pair.prompt_tokens if seen is None else seen.tokens for pair, seen in zip(batch.pairs, encoded, strict=True)
        ]
        vision = None
        if any(seen is not None for seen in encoded):
            vision = [{} if seen is None else seen.vision for seen in encoded for _ in range(2)]
        return [prompt for prompt in prompts for _ in range(2)], vision

    # --- validation: pairs, and benchmarks if the datamodule has some ---

    def make_evaluator(self, stage: str) -> Evaluator | None:
        has_benchmarks = getattr(getattr(self.trainer, "datamodule", None), "benchmarks", None) is not None
        return super().make_evaluator(stage) if has_benchmarks else None

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.validated = Averages()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> PreferenceLoss | None:
        """Compare pairs, which callbacks see, or answer benchmarks. An empty batch only keeps ranks in step."""
        if isinstance(batch, EvalBatch):
            super().validation_step(batch, batch_idx, dataloader_idx)
        elif len(batch):
            found, logps = self.compare(batch)
            for name, values in _statistics(found, logps).items():
                self.validated.add(f"val/{name}", values.sum(), len(values))
            return found
        return None

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.validated.expect("val/loss", "val/accuracy", "val/margin")
        self.log_dict(self.validated.reduce(self), prog_bar=True)


def _statistics(found: PreferenceLoss, logps: PairLogps) -> dict[str, Tensor]:
    """What is logged of each pair."""
    mean_P2 = (logps.policy_P2 / logps.lengths_P2).detach()
    values = {
        "loss": found.per_pair.detach(),
        "accuracy": found.correct.float(),
        "margin": found.margins,
        "chosen_reward": found.chosen_rewards,
        "rejected_reward": found.rejected_rewards,
        "chosen_logp": mean_P2[:, 0],
        "rejected_logp": mean_P2[:, 1],
        **found.terms,
    }
    if logps.reference_P2 is not None:
        values["chosen_drift"] = mean_P2[:, 0] - logps.reference_P2[:, 0] / logps.lengths_P2[:, 0]
    return values
