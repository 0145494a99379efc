"""What every objective shares: one policy, its optimizer, its evaluation, its small checkpoints, exact resume."""

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from lightning import Callback
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from lit_uniopd.benchmarks.heldout import heldout_benchmarks
from lit_uniopd.benchmarks.shards import EvalBatch
from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.distributed.atomic_checkpoint import AtomicCheckpointIO
from lit_uniopd.distributed.preemption import StopSignals, interruptible, rewind_unfinished, stop_if_requested
from lit_uniopd.distributed.sharding import is_sharded
from lit_uniopd.errors import UserError
from lit_uniopd.memory import Setup, Workload, parameter_table, publish, trainer_facts
from lit_uniopd.memory.planner import MemoryPlanner
from lit_uniopd.modules.evaluation_memory import evaluation_setups
from lit_uniopd.modules.lengths import longest_prompt
from lit_uniopd.modules.optimization import check_options, default_optimizer, new_optimizer, new_schedule, run_steps
from lit_uniopd.modules.progress_lines import missing_lines
from lit_uniopd.modules.run_files import run_files
from lit_uniopd.modules.run_objections import run_objections
from lit_uniopd.modules.same_run import CheckpointRecord
from lit_uniopd.modules.sharding_module import ShardingModule
from lit_uniopd.modules.unused_parameters import drop_unused_gradients
from lit_uniopd.modules.validation import Validation
from lit_uniopd.monitoring.step_timer import OVERHEAD, StepTimer
from lit_uniopd.monitoring.tensorboard_layout import Charts, write_compared, write_layout
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.chat_template import AnswerEnd, answer_end, encode, encode_answer
from lit_uniopd.policy.dropout import warn_of_dropout
from lit_uniopd.policy.loading import load_processor
from lit_uniopd.policy.policy import Policy
from lit_uniopd.rewards import GraderPool
from lit_uniopd.rewards.grading import grade_answers
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.engines import check_engine
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.sandbox import SandboxArgs
from lit_uniopd.schedules import WarmupCosine
from lit_uniopd.types import Prompt, PromptBatch, Rollouts
from lit_uniopd.utils.lightning_internals import (
    logged_step,
    restore_loaders,
    set_logged_step,
    set_signal_connector,
    signal_connector,
)
from lit_uniopd.utils.objections import Objection, refuse_or_warn
from lit_uniopd.utils.progress import say
from lit_uniopd.utils.seeding import derive_seed, run_seed
from lit_uniopd.utils.trainer_data import TrainerData
from lit_uniopd.utils.warning_filters import install_filters


class PolicyModule(ShardingModule):
    """Base of the objectives: one policy that is trained, validated, saved and resumed.

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
        grader_killed: what an answer is that takes longer, or too much memory.
        sandbox: where programs that answers contain are run.
        gradient_clip: largest norm of the gradient; null: no clipping but the trainer's own.
        answers_heldout: whether validation answers held-out prompts; False: they are for a loss of the module's own.

    Attributes:
        policy: loaded in ``configure_model``, when Lightning is ready; None before.
        validation: answers benchmarks and held-out prompts.
        memory: plans what the run will hold on each device.
        timer: where the time of a step goes.
        record: what its checkpoints say of their run, and whether one may be loaded.
        loaded_step: optimizer steps of the checkpoint that was loaded; 0: none was.
    """

    policy: Policy
    keeps_dropout: ClassVar[bool] = True
    """Whether it is trained with dropout; not where its log-probs are compared with ones made without."""

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
        grader_killed: Literal["incorrect", "unknown"] = "incorrect",
        sandbox: SandboxArgs | None = None,
        gradient_clip: float | None = None,
        answers_heldout: bool = True,
    ) -> None:
        super().__init__()
        install_filters()  # here too: a notebook has no command line
        # Checkpoints hold the trained weights only; the rest comes from where it was loaded.
        self.strict_loading = False
        self.policy = None  # type: ignore[assignment]
        self.policy_args = policy
        self.policy_flag = flag
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.gradient_clip = gradient_clip
        self.seed = run_seed(seed)
        self.val_sampling = val_sampling or SamplingArgs(n=1, temperature=0.0)
        self.graders = GraderPool(grader_workers, grader_timeout, sandbox, grader_killed)
        self.validation = Validation(self, self.val_sampling, self.graders, answers_heldout=answers_heldout)
        self.memory = MemoryPlanner()
        self.timer = StepTimer(self._now)
        self.record = CheckpointRecord(self)
        self.loaded_step = 0
        self._logged_steps: int | None = None

    def configure_callbacks(self) -> list[Callback]:
        return [*run_files(self.trainer), *missing_lines(self.trainer)]  # also without our command line

    # --- setting up: check what can be checked, then load, adapt and shard ---

    def prepare_data(self) -> None:
        """Build the playground's models on one rank before all ranks load them."""
        load_processor(self.policy_args, self.policy_flag)

    @property
    def trainer_data(self) -> TrainerData:
        """What the trainer's datamodule has."""
        return TrainerData(self.trainer)

    def setup(self, stage: str) -> None:
        limits = {self.gradient_clip, self.trainer.gradient_clip_val} - {None}
        if len(limits) > 1:
            raise UserError(
                f"--trainer.gradient_clip_val {self.trainer.gradient_clip_val} and --model.gradient_clip "
                f"{self.gradient_clip} differ; give --model.gradient_clip alone."
            )
        strategy = self.trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:  # not one that the user chose
            strategy.checkpoint_io = AtomicCheckpointIO()
        if not isinstance(signal_connector(self.trainer), StopSignals):
            set_signal_connector(self.trainer, StopSignals(self.trainer))
        if stage == "predict":
            graded = heldout_benchmarks(self.trainer_data.prompts("predict"), self.val_sampling, "predict")
            self.validation.check(list(graded.values()))
        if stage != "fit" or self.trainer.enable_validation:
            check_engine(self.val_sampling)
        self.validation.setup(self.trainer, stage)
        if stage == "fit":
            check_options(self.make_optimizer, self.make_lr_scheduler, self.trainer)
            refuse_or_warn(self.objections(), warns=self.trainer.is_global_zero)
            self.record.read_rows()
        if stage == "fit" and self.policy is None:
            self.memory.check(self.trainer, lambda: [self.memory_setup()])
        if stage in ("validate", "test") and self.policy is None:
            self.memory.check(self.trainer, lambda: evaluation_setups(self.trainer, self, self.validation.evaluator))

    def objections(self) -> Iterator[Objection]:
        """What speaks against a fit: `setup` refuses it or warns, and the doctor shows the same."""
        return run_objections(self, self._processor)

    def configure_model(self) -> None:
        if self.policy is None:
            torch.manual_seed(derive_seed(self.seed, "load"))  # adapters start at random, on every rank alike
            self.policy = self.load(self.policy_args, self.policy_flag, trainable=True)
            if not self.keeps_dropout:
                self.policy.switch_off_dropout()
        if not is_sharded(self.policy):
            self.on_policy_loaded()
            self.shard(self.policy)

    def on_policy_loaded(self) -> None:
        """For what needs the policy as it was before training, and not sharded: a reference to it, say.

        Its weights may not be read yet. Called at every entry point (`fit`, `validate`) of a module, so what is there
        already stays.
        """

    def on_fit_start(self) -> None:
        if self.trainer.is_global_zero:
            warn_of_dropout(self.policy.dropout_off, self.policy_flag)
        publish(self.trainer, "memory/parameters", "Models:", parameter_table(self.models()))
        write_compared(self.trainer, write_layout(self.trainer, self))

    def essential_charts(self) -> Charts:
        """The curves that a run is read by, for TensorBoard's tab CUSTOM SCALARS; see ``tensorboard_layout``."""
        return {}

    def configure_optimizers(self) -> Any:
        optimizer = new_optimizer(self.make_optimizer, [p for p in self.parameters() if p.requires_grad])
        if self.make_lr_scheduler is None:
            return optimizer
        schedule = new_schedule(self.make_lr_scheduler, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def steps_per_batch(self) -> int:
        """Optimizer steps in a training batch, under manual optimization."""
        return 1

    @cached_property
    def _processor(self) -> Any:
        return load_processor(self.policy_args, self.policy_flag)

    def prompt_length(self, prompt: Prompt) -> int:
        """Tokens of the prompt, its pictures' included; needs the processor only, so datamodules can ask early."""
        args = self.policy_args
        return len(encode(self._processor, prompt, args.chat_template_kwargs, args.max_pixels).tokens)

    @property
    def answer_end(self) -> AnswerEnd:
        return answer_end(self._processor, self.policy_args.chat_template_kwargs)

    def encode_answer(self, prompt: Prompt, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt without its pictures, and of an answer that somebody else wrote."""
        return encode_answer(self._processor, prompt, answer, self.policy_args.chat_template_kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """``gradient_clip``, or what the trainer was given."""
        limit = gradient_clip_val if self.gradient_clip is None else self.gradient_clip
        self.clip_gradients(optimizer, limit, gradient_clip_algorithm)

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

    def longest_prompt(self, prompts: Iterable[Prompt]) -> int:
        """Tokens of the longest prompt, as far as those of most characters tell."""
        return longest_prompt(prompts, self.prompt_length)

    def models(self) -> dict[str, Any]:
        """Name -> every model that is held, for the table of their parameters."""
        models = {"policy": self.policy.model}
        if self.policy.references:
            models["reference"] = self.policy.references[0].model
        return models

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
        return self.timer.part(part)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def on_train_start(self) -> None:
        restore_loaders(self.trainer)
        schedule = self.lr_schedulers()
        if isinstance(schedule, WarmupCosine):
            schedule.begin(run_steps(self.trainer, self.steps_per_batch))
        self.timer.restart()
        self.timer.between("wait")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.timer.between("wait")

    def on_validation_model_eval(self) -> None:
        """Validation is not part of a step."""
        self.timer.between(None)
        super().on_validation_model_eval()

    def on_validation_end(self) -> None:
        self.timer.between("wait")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.timer.between(OVERHEAD)
        if self._logged_steps is not None:  # Lightning counts a batch that was under way as one that has been logged
            set_logged_step(self.trainer, self._logged_steps)
            self._logged_steps = None
        stop_if_requested(self.trainer)

    # --- validation: benchmarks, or held-out prompts as benchmarks of their own ---

    @property
    def model_name(self) -> str:
        return self.policy_args.path

    @property
    def evaluated_policies(self) -> list[Policy]:
        return [self.policy]

    @property
    def evaluated_args(self) -> list[tuple[PolicyArgs, str]]:
        """Of ``evaluated_policies``, with the options that they come from; before anything is loaded."""
        return [(self.policy_args, self.policy_flag)]

    def policy_args_for(self, benchmark: Benchmark) -> tuple[PolicyArgs, str]:
        return self.policy_args, self.policy_flag

    def policy_for(self, benchmark: Benchmark) -> Policy:
        return self.policy

    def on_validation_epoch_start(self) -> None:
        # Outside of a fit Lightning counts no steps: the weights are of those that the checkpoint has taken.
        self.validation.begin(self.global_step or self.loaded_step)
        if self.trainer.state.fn != "fit" and (line := self.validation.estimate(self.trainer.world_size)):
            say(line)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        stop_if_requested(self.trainer)

    def validation_step(self, batch: PromptBatch | EvalBatch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        with interruptible(self.trainer):
            self.validation.answer(batch)

    def on_validation_epoch_end(self) -> None:
        """Log every score, also for checkpoint monitors; the reporter adds intervals, health, figures and tables."""
        result = self.validation.finish()
        if result is None:
            return
        if not self.trainer.sanity_checking:
            scores, headline = self.validation.scores(result)
            self.log_dict(scores, sync_dist=True)
            self.log_dict(headline, prog_bar=True, sync_dist=True)
        self.validation.publish(result, final=self.trainer.state.fn != "fit")

    # `uniopd test` is validation on the datamodule's test prompts, under its own tags.
    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_start = on_predict_batch_start = on_validation_batch_start
    on_test_epoch_end = on_validation_epoch_end

    def on_predict_epoch_start(self) -> None:
        self.validation.gather()

    def on_predict_epoch_end(self) -> None:
        self.validation.release()

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

    # --- stopping, saving, resuming ---

    def on_stop(self) -> None:
        """Called on all ranks before a stopped run writes its checkpoint."""
        self.graders.close()

    def place_in_step(self) -> str:
        """Where inside of a step a run stands, for people; empty between two steps."""
        return ""

    def on_fit_end(self) -> None:
        if self.trainer.is_global_zero:
            self.validation.compact_records()

    def teardown(self, stage: str) -> None:
        self.graders.close()
        self.validation.show()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        self.record.save(checkpoint)
        if rewind_unfinished(self.trainer, checkpoint["loops"]["fit_loop"]):
            checkpoint["logged_steps"] = logged_step(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.record.check(checkpoint)  # nothing is overwritten yet
        self._logged_steps = checkpoint.get("logged_steps")
        self.loaded_step = int(checkpoint.get("global_step", 0))
