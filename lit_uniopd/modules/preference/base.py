"""What all preference objectives share: pairs of a better and a worse answer, a reference, one loss of both."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.nn.utils.rnn import pad_sequence

from lit_uniopd.benchmarks.shards import EvalBatch
from lit_uniopd.distributed.preemption import interruptible
from lit_uniopd.errors import UserError
from lit_uniopd.functional.logps import sequence_logps
from lit_uniopd.functional.preference import PreferenceLoss
from lit_uniopd.memory import Setup, Workload
from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.modules.optimization import default_optimizer
from lit_uniopd.modules.preference.charts import preference_charts
from lit_uniopd.modules.preference.losses import PairLogps, PairLossArgs, pair_loss
from lit_uniopd.modules.preference.objections import loss_objections, pair_length_objections, score_objections
from lit_uniopd.modules.preference.reference_cache import ReferenceCache, weights_digest
from lit_uniopd.modules.run_objections import end_objections
from lit_uniopd.modules.step_mean import StepMean
from lit_uniopd.monitoring.tensorboard_layout import Charts
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.policy import Policy
from lit_uniopd.types import PairBatch
from lit_uniopd.utils.objections import Objection, refuse_or_warn
from lit_uniopd.utils.progress import track
from lit_uniopd.utils.stop_request import poll

PROBES = 4
"""Entries of a cache of reference log-probs that are computed again when it is loaded."""
LINE_VALUES = {"train/loss": "train/loss", "accuracy": "train/accuracy", "margin": "train/margin"}
"""What a line about a step shows: name -> tag."""


class PreferenceModule(PolicyModule):
    """Base of the objectives that learn from pairs.

    Their data are those of ``PreferenceDataModule``. Optimisation is Lightning's own: the trainer's
    ``accumulate_grad_batches`` does what it says. Every pair of an optimizer step counts alike, also where an epoch
    ends with fewer batches than that.

    Args:
        policy: the model to train; as it is before training, it is the reference.
        loss: which loss, and its hyper-parameters.
        optimizer: from parameters to an optimizer; write out every argument.
        lr_scheduler: from an optimizer to a schedule, stepped once per optimizer step; null: constant.
        reference_cache: folder for the reference's log-probs. They are computed before the first step, kept there, and
            found again by later runs with the same weights and pairs; no copy of the policy is held. Null: they are
            computed at every step.
        seed: of what is drawn at random; null: that of `--seed_everything`, else 0.
        gradient_clip: largest norm of the gradient; null: no clipping.
    """

    line_values = LINE_VALUES
    keeps_dropout = False  # as in TRL and the papers' released codes: before the first step the policy is the reference

    def __init__(
        self,
        policy: PolicyArgs,
        loss: PairLossArgs,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        reference_cache: str | None = None,
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
        self.loss = loss
        self.reference_cache = reference_cache
        self.references: ReferenceCache | None = None
        self.has_trained = False
        self.step_mean = StepMean()
        self.trained = WeightedMeans()
        self.validated = WeightedMeans()

    def objections(self) -> Iterator[Objection]:
        yield from super().objections()
        yield from end_objections(self.answer_end, self.policy_flag)
        data = self.trainer_data
        yield from loss_objections(self.loss)
        eta = getattr(getattr(data.datamodule, "weighting", None), "eta", None)
        yield from score_objections(self.loss, data.train_pairs, eta)
        yield from pair_length_objections(data.train_pairs, self.policy_args, self.policy_flag)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":  # what a validation cannot do without either
            scores = score_objections(self.loss, self.trainer_data.train_pairs, None)
            refuse_or_warn((objection for objection in scores if objection.refused), warns=False)

    def on_policy_loaded(self) -> None:
        if self.loss.needs_reference and self.reference_cache is None:
            self.policy.keep_reference()
        elif not self.policy.unread:
            self._open_references()

    def configure_model(self) -> None:
        super().configure_model()
        self._open_references()  # of weights that were read in shards; a collective call then

    def _open_references(self) -> None:
        """Name the cache of reference log-probs after the policy's weights, which are not trained yet."""
        if self.loss.needs_reference and self.reference_cache is not None and self.references is None:
            identity = [weights_digest(self.policy.model), self.policy_args.max_pixels, self.policy_args.quantization]
            name = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()
            self.references = ReferenceCache(self.reference_cache, name, self.global_rank)

    @property
    def evaluated_policies(self) -> list[Policy]:
        return [self.policy, *self.policy.references]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.fill_references()

    def on_validation_start(self) -> None:
        super().on_validation_start()
        if self.trainer.state.fn == "validate":
            self.fill_references()

    def essential_charts(self) -> Charts:
        validates = bool(self.trainer_data.val_pairs) and self.trainer.enable_validation
        return preference_charts(["train", "val"] if validates else ["train"], weighted=self.loss.kind == "omni_dpo")

    def workload(self) -> Workload:
        size, pairs = self.trainer_data.batch_size, self.trainer_data.train_pairs
        with_images = self.longest_prompt(p.pair.prompt for p in pairs if p.pair.prompt.images)
        lengths = ((len(p.prompt_tokens) or with_images, len(p.chosen_tokens), len(p.rejected_tokens)) for p in pairs)
        shared = self.policy_args.share_prompts
        longest = max((q + a + b if shared else 2 * (q + max(a, b)) for q, a, b in lengths), default=0)
        live = self.loss.needs_reference and self.reference_cache is None
        return Workload(
            train_tokens=size * longest,
            longest_row=longest,
            tokens_flag="--data.batch_size {rows}",
            score_tokens=size * longest if live else 0,
        )

    def memory_setup(self) -> Setup:
        live = self.loss.needs_reference and self.reference_cache is None
        return replace(super().memory_setup(), reference_copy=live and self.policy_args.lora is None)

    @torch.no_grad()
    def fill_references(self) -> None:
        """Compute what the cache of reference log-probs lacks, and try a few of the entries that it has.

        Raises:
            UserError: if one of them is wrong, or the policy is no longer the reference.
        """
        if self.references is None:
            return
        data = self.trainer_data
        pairs = data.pairs
        self.references.load()
        missing = self.references.missing(pairs)
        self.trainer.strategy.barrier("references are known")  # the files grow as soon as one rank goes on
        changed = self.policy_args.lora is None and (self.has_trained or self.trainer.ckpt_path is not None)
        if missing and changed:
            raise UserError(
                f"--model.reference_cache {self.reference_cache} lacks {len(missing)} of {len(pairs)} pairs, and the "
                "policy has been trained, so it is not their reference any more; give the pairs that its training "
                "began with, load it anew, or leave reference_cache out."
            )
        size = data.val_batch_size
        with self.policy.gathered(), self._as_reference() as reference:
            cached = [pair for pair in pairs if self.references.key(pair) in self.references.known]
            if cached and not changed:
                probes = cached[:: -(-len(cached) // PROBES)]
                computed_P2 = self._scored(reference, PairBatch(probes))
                if not torch.allclose(computed_P2, self.references.sums(probes, self.device), rtol=0.02, atol=0.05):
                    raise UserError(
                        f"{self.references.path} has other log-probs than this policy gives; delete the file."
                    )
            # Of like length together; every rank its share.
            missing.sort(key=lambda pair: len(pair.prompt_tokens) + len(pair.chosen_tokens) + len(pair.rejected_tokens))
            batches = [missing[i : i + size] for i in range(0, len(missing), size)]
            shard = batches[self.global_rank :: self.trainer.world_size]
            with interruptible(self.trainer):
                for batch in track(shard, "Reference log-probs") if self.global_rank == 0 and shard else shard:
                    poll()
                    self.references.add(batch, self._scored(reference, PairBatch(batch)))
        self.trainer.strategy.barrier("references")
        self.references.load()
        reused = len({self.references.key(pair) for pair in pairs}) - len(missing)
        rank_zero_info(f"Reference log-probs: {len(missing)} pairs computed, {reused} from the cache.")

    @contextmanager
    def _as_reference(self) -> Iterator[Policy]:
        """The policy, adapters off; before training it is the reference."""
        without_adapter = nullcontext() if self.policy_args.lora is None else self.policy.model.disable_adapter()
        with self.policy.answering(), without_adapter:
            yield self.policy

    def on_train_start(self) -> None:
        super().on_train_start()
        self.step_mean.restart()
        self.trained = WeightedMeans()

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        self.reseed("omni_dpo", self.global_step, batch_idx)
        result, logps = self.compare(batch)
        for name, values in _statistics(result, logps).items():
            self.trained.add(f"train/{name}", values.sum(), len(values))
        weights = result.terms.get("w_quality", 1.0) * result.terms.get("w_performance", torch.ones(len(batch)))
        self.trained.add("weight", weights.sum(), len(batch))
        self.trained.add("square", (weights**2).sum(), len(batch))
        return self.step_mean.weighted(self, result.loss, len(batch))

    def on_after_backward(self) -> None:
        self.step_mean.after_backward(self)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the step's pairs, those of all accumulated batches and ranks together."""
        self.has_trained = True
        super().on_before_optimizer_step(optimizer)
        values, self.trained = self.trained.reduce(self), WeightedMeans()
        weight, square = values.pop("weight"), values.pop("square")
        values["train/effective_share"] = weight**2 / square if square else 0.0
        norm = get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        values["train/grad_norm"] = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        self.log_dict(values, prog_bar=False)

    def compare(self, batch: PairBatch) -> tuple[PreferenceLoss, PairLogps]:
        """Loss of a batch, and the log-probs that it was made of."""
        reference_P2 = None
        if self.references is not None:
            reference_P2 = self.references.sums(batch.pairs, self.device)
        elif self.loss.needs_reference:
            with torch.no_grad(), self.policy.reference() as reference:
                reference_P2 = self._scored(reference, batch)
        policy_P2 = self._scored(self.policy, batch)
        lengths = [[len(pair.chosen_tokens), len(pair.rejected_tokens)] for pair in batch.pairs]
        logps = PairLogps(policy_P2, torch.tensor(lengths, device=policy_P2.device), reference_P2)
        columns = [(p.pair.score_chosen, p.pair.score_rejected, p.pair.quality) for p in batch.pairs]
        score_chosen, score_rejected, quality = torch.tensor(columns, device=policy_P2.device).unbind(dim=1)
        result = pair_loss(self.loss, logps, score_chosen=score_chosen, score_rejected=score_rejected, quality=quality)
        return result, logps

    def _scored(self, policy: Policy, batch: PairBatch) -> Tensor:
        """Log-probs ``[P, 2]`` of the answers, summed over their tokens."""
        prompts, vision = self._prompts(batch)
        answers = [tokens for pair in batch.pairs for tokens in (pair.chosen_tokens, pair.rejected_tokens)]
        tokens_BT = pad_sequence([torch.tensor(tokens) for tokens in answers], batch_first=True)
        lengths_B = torch.tensor([len(tokens) for tokens in answers])
        mask_BT = torch.arange(tokens_BT.shape[1]) < lengths_B[:, None]
        logps_BT, _ = policy.token_logps(prompts, tokens_BT, mask_BT, vision=vision)
        return sequence_logps(logps_BT, mask_BT.to(logps_BT.device), average=False).view(-1, 2)

    def _prompts(self, batch: PairBatch) -> tuple[list[Any], list[Any] | None]:
        """Each prompt twice, with what the processor makes of its pictures."""
        encoded = [self.policy.encode(pair.pair.prompt) if pair.pair.prompt.images else None for pair in batch.pairs]
        prompts = [
            pair.prompt_tokens if prompt is None else prompt.tokens
            for pair, prompt in zip(batch.pairs, encoded, strict=True)
        ]
        vision = None
        if any(prompt is not None for prompt in encoded):
            vision = [{} if prompt is None else prompt.vision for prompt in encoded for _ in range(2)]
        return [prompt for prompt in prompts for _ in range(2)], vision

    # --- validation: pairs, and benchmarks if the datamodule has some ---

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.validated = WeightedMeans()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> PreferenceLoss | None:
        """Compare pairs, which callbacks see, or answer benchmarks. An empty batch only keeps ranks in step."""
        if isinstance(batch, EvalBatch):
            super().validation_step(batch, batch_idx, dataloader_idx)
        elif len(batch):
            result, logps = self.compare(batch)
            for name, values in _statistics(result, logps).items():
                self.validated.add(f"val/{name}", values.sum(), len(values))
            return result
        return None

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.validated.expect("val/loss", "val/accuracy", "val/margin")
        means = self.validated.reduce(self)
        if "val/accuracy" in means:  # not where all that is validated are benchmarks
            self.log("val/accuracy", means.pop("val/accuracy"), prog_bar=True)
        self.log_dict(means)


def _statistics(result: PreferenceLoss, logps: PairLogps) -> dict[str, Tensor]:
    """What is logged of each pair."""
    mean_P2 = (logps.policy_P2 / logps.lengths_P2).detach()
    values = {
        "loss": result.per_pair.detach(),
        "accuracy": result.correct.float(),
        "margin": result.margins,
        "chosen_reward": result.chosen_rewards,
        "rejected_reward": result.rejected_rewards,
        "chosen_logp": mean_P2[:, 0],
        "rejected_logp": mean_P2[:, 1],
        **result.terms,
    }
    if logps.reference_P2 is not None:
        values["chosen_drift"] = mean_P2[:, 0] - logps.reference_P2[:, 0] / logps.lengths_P2[:, 0]
    return values
