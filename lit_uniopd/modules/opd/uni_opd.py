"""Uni-OPD: on-policy distillation from one or many teachers (arXiv 2605.03677)."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lit_uniopd.distributed.collectives import gradient_sync, sum_over_ranks
from lit_uniopd.distributed.preemption import interruptible, stop_if_requested
from lit_uniopd.memory import Setup, Workload
from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.modules.opd.advantages import AdvantageArgs, rollout_advantages
from lit_uniopd.modules.opd.alarms import Alarms
from lit_uniopd.modules.opd.baseline import teacher_baseline
from lit_uniopd.modules.opd.charts import opd_charts
from lit_uniopd.modules.opd.demonstrations import show_best_answers
from lit_uniopd.modules.opd.dispatch import rebalance_groups, split_updates
from lit_uniopd.modules.opd.engine_choice import rollout_sampling
from lit_uniopd.modules.opd.horizon import HorizonArgs, at_horizon, forget_cut
from lit_uniopd.modules.opd.lag import LaggedRollouts
from lit_uniopd.modules.opd.losses import LossArgs, divergence_loss, sampled_loss
from lit_uniopd.modules.opd.memory_facts import rollout_workload, with_teachers
from lit_uniopd.modules.opd.objections import opd_objections, too_many_updates
from lit_uniopd.modules.opd.outcomes import check_golds, outcome_users
from lit_uniopd.modules.opd.own_teacher import own_teachers
from lit_uniopd.modules.opd.plug_ins import call_plug_ins
from lit_uniopd.modules.opd.preflight import check_arguments, check_graders, check_images, check_prompts
from lit_uniopd.modules.opd.resume import ScoredRollout, UnfinishedRollout
from lit_uniopd.modules.opd.rollout_metrics import LINE_VALUES, step_metrics
from lit_uniopd.modules.opd.scoring import micro_rollouts, update_batches
from lit_uniopd.modules.opd.step_work import StepWork
from lit_uniopd.modules.opd.teacher_scores import ask_teachers
from lit_uniopd.modules.opd.warm_start import Phase, WarmStartArgs, phase_at, refuse_warm_start
from lit_uniopd.modules.opd.writing_teams import bring_home, write_part
from lit_uniopd.modules.optimization import clip_gradient, default_optimizer
from lit_uniopd.monitoring.tensorboard_layout import Charts
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.rewards.grading import Grading
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.engines import check_engine
from lit_uniopd.sandbox import SandboxArgs
from lit_uniopd.teachers import Teachers
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.teachers.student_average import load_averages, save_averages
from lit_uniopd.types import Prompt, PromptBatch, Rollouts
from lit_uniopd.utils.objections import Objection, refuse_or_warn
from lit_uniopd.utils.seeding import derive_seed

log = logging.getLogger(__name__)


class UniOPD(PolicyModule):
    """Distil one or many teachers into a student, on answers that the student writes.

    One ``training_step`` is one rollout batch: sample, grade, score, let datamodule and callbacks look, update.

    Args:
        student: the model to train.
        teachers: name -> teacher, and where it lives; in Python `PolicyArgs` do for one that lives here. A prompt goes
            to the teacher named in its `teacher` column, else to the one named like its domain, else to the one called
            `default`. null removes one that a config names.
        sampling: how the student writes its training answers.
        val_sampling: how it writes validation and prediction answers; null: one greedy answer, by the same
            engine and as long.
        loss: the objective.
        advantage: what its tokens are worth (`sampled` only): teacher, outcome, or a control.
        horizon: shorter answers for the first steps; null: of full length from the first on.
        writer: who writes the training answers. teacher: off-policy distillation, each prompt's teacher answers it; for
            the losses that compare whole distributions.
        warm_start: teachers write for the first steps, and the student from then on; null: from the first step on.
        split_groups: ranks that share the writing of a prompt's answers, each an equal part of them, so that none waits
            for the one with the longest prompts; it divides `sampling.n`. Results stay the same.
        updates_per_rollout: optimizer steps per rollout; each takes an equal share of the answers.
        micro_batch_tokens: tokens in one forward pass of teacher or student, padding included, a prompt that answers
            share counted once: the memory lever.
        max_teacher_failures: the run stops when more than this share of a rollout's answers could not be scored.
        gradient_clip: largest norm of the gradient; null: no clipping.
        grader_workers: processes that grade answers.
        grader_timeout: seconds that one answer may take to grade.
        grader_killed: what an answer is that takes longer, or too much memory.
        sandbox: where programs that answers contain are run; null: in the safest way this machine has.
        optimizer: from parameters to an optimizer; write out every argument.
        lr_scheduler: from an optimizer to a schedule, stepped once per optimizer step; null: constant.
        seed: of sampling; null: that of `--seed_everything`, else 0.
    """

    keeps_dropout = False  # the ratio of a rollout's first update is 1
    writes_rollouts = True
    line_values = LINE_VALUES

    def __init__(
        self,
        student: PolicyArgs,
        teachers: Teachers,
        sampling: SamplingArgs = SamplingArgs(),  # noqa: B008  # never mutated; an instance is what --help can show
        val_sampling: SamplingArgs | None = None,
        loss: LossArgs = LossArgs(),  # noqa: B008
        advantage: AdvantageArgs = AdvantageArgs(),  # noqa: B008
        horizon: HorizonArgs | None = None,
        writer: Literal["student", "teacher"] = "student",
        warm_start: WarmStartArgs | None = None,
        split_groups: int = 1,
        updates_per_rollout: int = 1,
        micro_batch_tokens: int = 16384,
        max_teacher_failures: float = 0.1,
        gradient_clip: float | None = 1.0,
        grader_workers: int = 2,
        grader_timeout: float = 10.0,
        grader_killed: Literal["incorrect", "unknown"] = "incorrect",
        sandbox: SandboxArgs | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
    ) -> None:
        greedy = replace(sampling, n=1, temperature=0.0, top_p=1.0, top_k=0, lag=0)
        super().__init__(
            student,
            flag="model.student",
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            seed=seed,
            val_sampling=val_sampling or greedy,
            grader_workers=grader_workers,
            grader_timeout=grader_timeout,
            grader_killed=grader_killed,
            sandbox=sandbox,
            gradient_clip=gradient_clip,
        )
        check_arguments(sampling, loss, advantage, writer, split_groups, updates_per_rollout, teachers)
        # One training_step holds several backward passes and optimizer steps; their order is written out below.
        self.automatic_optimization = False
        self.teachers = TeacherPool(teachers if advantage.needs_teachers else {}, top_k=loss.asked_top_k)
        options: dict[str, Any] = {"direction": loss.top_k_direction, "baseline": advantage.baseline}
        self.teachers.refuse(sampling.temperature or 1.0, loss.kind, writer=writer, **options)
        refuse_warm_start(warm_start, writer, self.teachers.args, self.teachers.routing, loss)
        self.sampling = self.rollout_sampling = sampling
        self.loss = loss if self.teachers else replace(loss, gap_threshold=None)  # the gap to a teacher that there is
        self.advantage = advantage
        self.horizon = horizon
        self.writer: Literal["student", "teacher"] = writer
        self.warm_start = warm_start
        self.phase = Phase(writer, sampling, self.loss)
        """Of the step that is under way: of the warm start, or what follows it."""
        self.max_teacher_failures = max_teacher_failures
        self.split_groups = split_groups
        self.updates_per_rollout = updates_per_rollout
        self.micro_batch_tokens = micro_batch_tokens
        self.domains: list[str] = []
        self.unfinished = UnfinishedRollout()
        self.lagged = LaggedRollouts()
        self.alarms = Alarms()
        self.rollouts: Rollouts | None = None
        """What the step trains on that is under way or has just ended, also in a resumed run, where no hook saw it."""

    def setup(self, stage: str) -> None:
        """Check every prompt's route, grader and gold before any model is loaded."""
        # The state after the step is what we mean to save; Lightning 2.6 wonders on every checkpoint.
        warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
        data = self.trainer_data
        trained = data.prompts("train")
        self.teachers.learn_rows(trained, self.seed)
        prompts = data.prompts("train", "val", "test", "predict")
        self.custom_graders = check_prompts(prompts)
        check_graders(data.prompts("train", "val"))
        if stage == "fit":
            check_engine(self.sampling)
        trained = trained if stage == "fit" else []
        check_golds(trained, self.graders, self.outcome_users, warns=self.global_rank == 0)
        check_images(prompts, trained, student=self.policy_args, flag=self.policy_flag, teachers=self.teachers)
        if stage == "fit" and self.teachers:
            for name, count in self.teachers.routes(trained).items():
                log.info("Teacher %s scores the answers to %d prompts.", name, count)
            self.teachers.check(self._processor, self.policy_args)
        super().setup(stage)
        self.domains = sorted({prompt.domain for prompt in prompts})

    def objections(self) -> Iterator[Objection]:
        yield from super().objections()
        yield from opd_objections(self, self._processor)

    def configure_model(self) -> None:
        super().configure_model()
        if self.trainer.state.fn == "fit":
            for name in self.teachers.load(self.policy, self.reading_ranks):
                self.shard(self.teachers[name])

    @property
    def outcome_users(self) -> list[str]:
        """What in the run can do nothing without outcomes."""
        return outcome_users(self.advantage, self.trainer, self.teachers.showing_best)

    @property
    def steps_per_batch(self) -> int:
        return self.updates_per_rollout

    def on_policy_loaded(self) -> None:
        if self.trainer.state.fn == "fit":
            if self.advantage.needs_reference:
                self.policy.keep_reference()
            self.teachers.attach(self.policy)

    def on_fit_start(self) -> None:
        self.rollout_sampling = rollout_sampling(self.sampling, self.policy, self.writer)
        self.teachers.to(self.device)
        self.work = StepWork(self)
        super().on_fit_start()
        refuse_or_warn(own_teachers(self), warns=self.trainer.is_global_zero)

    def workload(self) -> Workload:
        return rollout_workload(self, self._processor)

    def memory_setup(self) -> Setup:
        return with_teachers(self, super().memory_setup())

    def models(self) -> dict[str, Any]:
        return super().models() | {f"teacher {name}": policy.model for name, policy in self.teachers.loaded.items()}

    def essential_charts(self) -> Charts:
        return opd_charts(self)

    # --- one step: sample, rebalance, grade and score, balance and calibrate, update ---

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        refuse_or_warn(too_many_updates(self.updates_per_rollout, len(batch) * self.sampling.n))
        self.rollouts = None  # those of the step before
        scored = self.unfinished.take_up(self, batch, self.policy)
        begun = self.global_step - (0 if scored is None else scored.done)
        self.phase = phase_at(self, begun)
        with self.lagged.step():
            if scored is None:
                with interruptible(self.trainer, gathers=self.phase.writer == "teacher"):
                    rollouts = self.answer(batch)
                with self.timed("wait"):
                    rollouts = bring_home(self, batch.prompts, rollouts)
                    rollouts = rebalance_groups(self, self.policy, self.teachers, rollouts)
                self.lagged.begin(self, begun)
                self.score(rollouts)
                self.visit(rollouts)
                seed = derive_seed(self.seed, 0, "updates", self.global_step)
                scored = ScoredRollout(rollouts, split_updates(self, rollouts, self.updates_per_rollout, seed=seed))
            else:
                show_best_answers(scored.rollouts, self.teachers)  # prompts are those of the batch
                self.lagged.begin(self, begun)
            self.update(scored, batch.prompts)
            self.log_step(scored.rollouts, scored.trained, self.timer.lap())

    def answer(self, batch: PromptBatch) -> Rollouts:
        """Answers to the prompts, or this rank's part of its team's, written now unless they were written ahead."""
        seed = self.reseed("rollout", self.global_step)
        if (written := self.lagged.take(self, batch)) is not None:
            return written
        sampling = at_horizon(self.phase.sampling, self.horizon, self.global_step)
        with self.timed("rollout"):
            return write_part(self, batch.prompts, sampling, seed=seed)

    def score(self, rollouts: Rollouts) -> None:
        """Grade the answers while teachers score them, then fill in the advantages (Uni-OPD, section 1.2).

        They are ``log p_T - log p_S``, or what stands in their place. Where teachers read right answers, all are
        graded first.
        """
        with ExitStack() as meanwhile:
            meanwhile.enter_context(self.grading(rollouts))
            if self.teachers.showing_best:
                meanwhile.close()
                show_best_answers(rollouts, self.teachers)
            reference_BT = ask_teachers(self, rollouts)
            baseline_BT = teacher_baseline(self, rollouts)
        forget_cut(rollouts, self.sampling, self.horizon, self.global_step)
        rollouts.advantages_BT = rollout_advantages(
            rollouts,
            self.advantage,
            reference_logps_BT=reference_BT,
            baseline_BT=baseline_BT,
            seed=derive_seed(self.seed, self.global_rank, "advantages", self.global_step),
        )

    @contextmanager
    def grading(self, rollouts: Rollouts) -> Iterator[None]:
        """Grade in other processes while the body runs; it may look at neither grades nor outcomes.

        `time/grade` is what this process still waits for afterwards.
        """
        with self.timed("grade"):
            under_way = Grading(rollouts, self.graders)
        with under_way:
            yield
        with self.timed("grade"), interruptible(self.trainer):
            under_way.finish()

    def visit(self, rollouts: Rollouts) -> None:
        """Call ``on_rollouts_scored`` of the datamodule, then of every callback in order, where they have it.

        They may change ``keep_B`` (balancing) and ``advantages_BT`` (calibration) in place.
        """
        call_plug_ins(self, rollouts)

    def update(self, scored: ScoredRollout, prompts: Sequence[Prompt]) -> None:
        """The optimizer steps that are left of a rollout; a run that is stopped between them keeps the rest."""
        with self.timed("update"):
            for rows in scored.updates[scored.done :]:
                self.unfinished.keep(scored, prompts)
                self.rollouts = scored.rollouts
                scored.trained.merge(self.optimizer_step_on(scored.rollouts, rows))
                scored.done += 1
            self.teachers.rest()
        self.unfinished.clear()

    def optimizer_step_on(self, rollouts: Rollouts, rows: list[int]) -> WeightedMeans:
        """One optimizer step on some of the answers, of which this rank may have none.

        Exact for any split into micro-batches and ranks, since only sums are added up.

        Returns:
            Its statistics; a step that is stopped before its end is made again, and has none.
        """
        trained = WeightedMeans()
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        denominator = self.loss.denominator or sum_over_ranks(self, len(rows))
        micro_batches = self.micro_batches(rollouts, rows)
        total = torch.zeros((), device=self.device)
        for index, (teacher, batch) in enumerate(micro_batches):
            stop_if_requested(self.trainer)  # gradients that are in no checkpoint yet are made again
            micro, weight = micro_rollouts(rollouts, batch, self.phase.loss.kind), float(bool(batch))
            filler, reached = WeightedMeans(), set(self.policy.reached)
            loss = self.micro_loss(micro, teacher, denominator, trained if batch else filler)
            trained.expect(*filler.state())
            self.policy.reached = self.policy.reached if batch else reached
            with gradient_sync(self, enabled=index == len(micro_batches) - 1):
                # DDP and FSDP take the mean over ranks of what must be summed.
                self.manual_backward(loss * weight * self.trainer.world_size)
            total += loss.detach() * weight
            if batch:
                rollouts.clipped_BT[batch, : micro.clipped_BT.shape[1]] = micro.clipped_BT
        self.lagged.wait(self)
        trained.add("train/loss", total, 1 / self.trainer.world_size)
        trained.add("train/grad_norm", self.clip())
        trained.add("train/lr", optimizer.param_groups[0]["lr"])
        optimizer.step()
        for average in self.teachers.averages.values():
            average.follow()
        schedule: Any = self.lr_schedulers()
        if schedule is not None:
            schedule.step()
        return trained

    def micro_batches(self, rollouts: Rollouts, rows: list[int]) -> list[tuple[str, list[int]]]:
        """Teacher and rows of each micro-batch, equally many on every rank; only the divergences need a teacher."""
        teachers = None if self.phase.loss.kind == "sampled" else self.teachers
        return update_batches(self, self.policy, rollouts, rows, self.micro_batch_tokens, teachers)

    def micro_loss(self, rollouts: Rollouts, teacher: str, denominator: float, trained: WeightedMeans) -> Tensor:
        """This micro-batch's share of the loss; its statistics are added to ``trained``."""
        common: dict[str, Any] = {"temperature": self.temperature, "denominator": denominator, "trained": trained}
        loss = self.phase.loss
        if loss.kind == "sampled":
            return sampled_loss(self.policy, rollouts, loss, **common)
        passes = self.teachers.passes(teacher, rollouts.prompts) if teacher else ()
        return divergence_loss(self.policy, passes, rollouts, loss, **common)

    def clip(self) -> Tensor:
        """Norm of the whole gradient, before it is cut to ``gradient_clip``."""
        return clip_gradient(self.parameters(), self.gradient_clip)

    @property
    def temperature(self) -> float:
        """Temperature of student and teacher alike; greedy rollouts are scored at 1."""
        return self.sampling.temperature or 1.0

    def log_step(self, rollouts: Rollouts, trained: WeightedMeans, seconds: dict[str, float]) -> None:
        """Log what the rollout and the update were like, averaged over all ranks, and where this rank's time went."""
        metrics = step_metrics(self, rollouts, trained, seconds)
        self.log_dict(metrics, batch_size=len(rollouts))
        if self.trainer.is_global_zero:
            self.alarms.check(metrics, self.loss, self.outcome_users, step=self.global_step)

    # --- stopping and resuming between two updates of a rollout ---

    def on_stop(self) -> None:
        super().on_stop()
        self.unfinished.freeze(self)
        self.lagged.freeze(self)

    def place_in_step(self) -> str:
        return self.unfinished.place()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        self.unfinished.save(checkpoint)
        self.lagged.save(self, checkpoint)
        save_averages(self.teachers.averages, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.unfinished.states = checkpoint.get("rollouts", [])
        self.lagged.load(self, checkpoint)
        if self.trainer.state.fn == "fit":
            load_averages(self.teachers.averages, checkpoint)
