"""What every objective shares: one policy, its optimizer, its evaluation, its small checkpoints, exact resume."""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.tensor import DTensor

from lit_uniopd.distributed.atomic_checkpoint import AtomicCheckpointIO
from lit_uniopd.distributed.preemption import interruptible, rewind_unfinished, stop_if_requested
from lit_uniopd.distributed.sharding import is_sharded
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.memory import (
    MemoryPlan,
    Setup,
    Workload,
    check_fits,
    free_bytes,
    parameter_table,
    plan_memory,
    publish,
    trainer_facts,
)
from lit_uniopd.modules.evaluation_base import EvaluatingModule
from lit_uniopd.modules.unused_parameters import drop_unused_gradients
from lit_uniopd.monitoring.step_timer import OVERHEAD, StepTimer
from lit_uniopd.monitoring.tensorboard_layout import Charts, write_layout
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.chat_template import encode, encode_answer
from lit_uniopd.policy.loading import load_processor
from lit_uniopd.policy.policy import Policy
from lit_uniopd.rewards import GraderPool
from lit_uniopd.rewards.grading import grade_answers
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.sandbox import SandboxArgs
from lit_uniopd.schedules import WarmupCosine
from lit_uniopd.types import Prompt, PromptBatch, Rollouts
from lit_uniopd.utils.lightning_internals import logged_step, set_logged_step
from lit_uniopd.utils.seeding import derive_seed, run_seed

log = logging.getLogger(__name__)


def default_optimizer(params: Any) -> torch.optim.Optimizer:
    """AdamW with the settings of Uni-OPD's released scripts."""
    return torch.optim.AdamW(params, lr=1e-6, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1)


class PolicyModule(EvaluatingModule):
    """Base of the objectives; holds ``policy``, loaded in ``configure_model``.

    Args:
        policy: the model to train.
        flag: the option that ``policy`` came from, for messages.
        optimizer: from parameters to an optimizer. In YAML write out every argument: keys that you leave out keep the
            default optimizer's values.
        lr_scheduler: from an optimizer to a schedule, stepped once per optimizer step; null: constant.
        seed: of sampling and dropout; null: that of `--seed_everything`, else 0.
        val_sampling: how validation answers are written; null: one greedy answer.
        grader_workers: processes that grade answers.
        grader_timeout: seconds that one answer may take to grade.
        sandbox: where programs that answers contain are run.
    """

    def __init__(
        self,
        policy: PolicyArgs,
        *,
        flag: str,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
        val_sampling: SamplingArgs | None = None,
        grader_workers: int = 1,
        grader_timeout: float = 10.0,
        sandbox: SandboxArgs | None = None,
    ) -> None:
        super().__init__(
            policy_args=policy,
            policy_flag=flag,
            val_sampling=val_sampling or SamplingArgs(n=1, temperature=0.0),
            graders=GraderPool(workers=grader_workers, time_limit=grader_timeout, sandbox=sandbox),
        )
        # Checkpoints hold the trained weights only; the rest comes from where it was loaded.
        self.strict_loading = False
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.seed = run_seed(seed)
        self.memory_plan: MemoryPlan | None = None
        self._logged_steps: int | None = None
        self.clock = StepTimer(self._now)

    def prepare_data(self) -> None:
        """Build the playground's models on one rank before all ranks load them."""
        load_processor(self.policy_args, self.policy_flag)

    def setup(self, stage: str) -> None:
        strategy = self.trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:  # not one that the user chose
            strategy.checkpoint_io = AtomicCheckpointIO()
        super().setup(stage)
        if stage == "fit" and self.policy is None:
            self.plan_memory()

    def configure_model(self) -> None:
        if self.policy is None:
            torch.manual_seed(derive_seed(self.seed, "load"))  # adapters start at random, on every rank alike
            self.policy = Policy.load(self.policy_args, trainable=True, flag=self.policy_flag)
        if not is_sharded(self.policy):
            self.on_policy_loaded()
            self.shard(self.policy)

    def on_policy_loaded(self) -> None:
        """For what needs the policy as it was before training, and whole: a reference to it, or its digest.

        Called at every entry point (`fit`, `validate`) of a module, so what is there already stays.
        """

    def on_fit_start(self) -> None:
        publish(self.trainer, "memory/parameters", "Models:", parameter_table(self.models()))
        write_layout(self.trainer, self)

    def essential_charts(self) -> Charts:
        """The curves that a run is read by, for TensorBoard's tab CUSTOM SCALARS; see ``tensorboard_layout``."""
        return {}

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        try:
            optimizer = self.make_optimizer(trained)
        except (ValueError, TypeError) as error:
            raise UserError(f"--model.optimizer: {first_line(error)}; change that option.") from error
        if type(optimizer).__module__.startswith("bitsandbytes") and any(isinstance(p, DTensor) for p in trained):
            raise UserError(
                f"--model.optimizer {type(optimizer).__name__} cannot step on weights that FSDP shards; use "
                "torch.optim.AdamW, whose states are sharded too."
            )
        if self.make_lr_scheduler is None:
            return optimizer
        schedule = self.make_lr_scheduler(optimizer)
        if isinstance(schedule, WarmupCosine) and schedule.total_steps is None:
            schedule.total_steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @cached_property
    def _processor(self) -> Any:
        return load_processor(self.policy_args, self.policy_flag)

    def prompt_length(self, prompt: Prompt) -> int:
        """Tokens of the prompt, its pictures' included; needs the processor only, so datamodules can ask early."""
        args = self.policy_args
        return len(encode(self._processor, prompt, args.chat_template_kwargs, args.max_pixels).tokens)

    def encode_answer(self, prompt: Prompt, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt without its pictures, and of an answer that somebody else wrote."""
        return encode_answer(self._processor, prompt, answer, self.policy_args.chat_template_kwargs)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        drop_unused_gradients(self, self.policy)

    # --- memory ---

    def workload(self) -> Workload:
        """What one step asks of the device. An objective that does not say gets a plan without activations."""
        return Workload(train_tokens=0, longest_row=0)

    def memory_setup(self) -> Setup:
        """All that the memory plan depends on; needs the trainer and its datamodule, and no weights."""
        facts = trainer_facts(self.trainer)
        return Setup(self.policy_args, self.policy_flag, self.make_optimizer, self.workload(), **facts)

    def plan_memory(self) -> None:
        """Print what the run will hold on each device, before any weights are loaded.

        Raises:
            UserError: naming the levers, if it cannot fit.
        """
        try:
            setup = self.memory_setup()
            self.memory_plan = plan_memory(setup)
        except UserError:
            raise
        except Exception as error:  # a model that the plan cannot read may still be trained
            log.warning("There is no memory plan for this model (%s: %s).", type(error).__name__, error)
            return
        publish(self.trainer, "memory/plan", "Memory plan:", self.memory_plan.table())
        device = self.trainer.strategy.root_device
        # All ranks decide alike, or those that go on would wait for those that stopped.
        free = self.trainer.strategy.broadcast(free_bytes(device, self.trainer.num_devices))
        warning = check_fits(setup, self.memory_plan, free, str(device))
        if warning is not None:
            rank_zero_warn(warning)

    def longest_prompt(self, prompts: Sequence[Prompt]) -> int:
        """Tokens of the longest prompt, as far as those of most characters tell."""
        asked = sorted(prompts, key=lambda prompt: -len(str(prompt.messages)))[:4]
        return max((self.prompt_length(prompt) for prompt in asked), default=0)

    def models(self) -> dict[str, Any]:
        """Name -> every model that is held, for the table of their parameters."""
        found = {"policy": self.policy.model}
        for copied in self.policy.references:
            found["reference"] = copied.model
        return found

    def reseed(self, *keys: int | str) -> int:
        """Seed torch from the place in the run, not from what ran before, so that a resumed run equals an unbroken one.

        Torch's draws (dropout) differ from rank to rank.

        Returns:
            A seed for draws with keys of their own, the same on every rank.
        """
        torch.manual_seed(derive_seed(self.seed, self.global_rank, *keys))
        return derive_seed(self.seed, 0, *keys)

    # --- where the time of a step goes: what Lightning does between two steps, loading data above all, is `wait` ---

    def timed(self, part: str) -> AbstractContextManager[None]:
        """Count what happens inside as this part of the step (see `StepTimer`)."""
        return self.clock.part(part)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def on_train_start(self) -> None:
        self.clock.restart()
        self.clock.between("wait")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.clock.between("wait")

    def on_validation_model_eval(self) -> None:
        """Validation is not part of a step."""
        self.clock.between(None)
        super().on_validation_model_eval()

    def on_validation_end(self) -> None:
        self.clock.between("wait")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.clock.between(OVERHEAD)
        if self._logged_steps is not None:  # Lightning counts a batch that was under way as one that has been logged
            set_logged_step(self.trainer, self._logged_steps)
            self._logged_steps = None
        stop_if_requested(self.trainer)

    def predict_step(self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> Rollouts | None:
        """Answer and grade; callbacks write what comes out. A prompt's answers do not depend on batches or ranks."""
        rollouts = None
        with interruptible(self.trainer):
            if len(batch):
                keys = [int(prompt.key, 16) >> 1 for prompt in batch]
                seed = derive_seed(self.seed, "predict")
                rollouts = write_answers(self.policy, batch.prompts, self.val_sampling, seed=seed, keys=keys)
                grade_answers(rollouts, self.graders)
        return rollouts

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["policy_path"] = self.policy_args.path
        if rewind_unfinished(self.trainer, checkpoint["loops"]["fit_loop"]):
            checkpoint["logged_steps"] = logged_step(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with the model before anything is overwritten.

        Raises:
            UserError: if it belongs to another model or another choice of trained weights.
        """
        self._logged_steps = checkpoint.get("logged_steps")
        self.loaded_step = int(checkpoint.get("global_step", 0))
        ours = {name: tuple(p.shape) for name, p in self.named_parameters() if p.requires_grad}
        theirs = {name: tuple(t.shape) for name, t in checkpoint["state_dict"].items()}
        differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        if differing:
            name = differing[0]
            raise UserError(
                f"--ckpt_path holds another model than --{self.policy_flag}.path {self.policy_args.path}: {name} has "
                f"shape {theirs.get(name, 'none')} there and {ours.get(name, 'none')} here ({len(differing)} tensors "
                "differ); give the model and the lora settings with which it was made."
            )
        if checkpoint["policy_path"] != self.policy_args.path:
            rank_zero_warn(
                f"The checkpoint was made from {checkpoint['policy_path']!r}; this run has "
                f"{self.policy_args.path!r}, and frozen weights come from that."
            )
