"""Benchmarks during training: before the first step, every N steps, after the last."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lit_uniopd import STARTED
from lit_uniopd.benchmarks.distributed_evaluator import EvalResult, Evaluator
from lit_uniopd.benchmarks.engine import EvalArgs
from lit_uniopd.benchmarks.harness.args import HarnessArgs
from lit_uniopd.benchmarks.judging.args import JudgeArgs
from lit_uniopd.benchmarks.judging.evaluation import EvaluationJudge
from lit_uniopd.benchmarks.loading import load_benchmarks
from lit_uniopd.benchmarks.metrics import build_metrics
from lit_uniopd.benchmarks.records import content_hash
from lit_uniopd.benchmarks.registry import expand
from lit_uniopd.benchmarks.report.console import score_table, wide_console
from lit_uniopd.benchmarks.report.reporter import Reporter
from lit_uniopd.benchmarks.report.summary import SUMMARY, summary_of
from lit_uniopd.benchmarks.spec import Benchmark, ProfileName
from lit_uniopd.diagnostics import before_after_figure
from lit_uniopd.errors import UserError
from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.monitoring.media import log_figure
from lit_uniopd.monitoring.step_interval import batch_passes_multiple
from lit_uniopd.monitoring.tensorboard_layout import Charts
from lit_uniopd.policy import Policy
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.types import Prompt
from lit_uniopd.utils.run_directory import run_directory
from lit_uniopd.utils.write_json import write_json

Scores = dict[str, float]
FIGURE = "before_after.png"
"""Scores before and after, beside the teachers', in the directory of a run."""


def as_read(benchmark: Benchmark, reading: Callable[[Prompt], Prompt]) -> Benchmark:
    """A benchmark with the prompts that a teacher reads in the place of its own.

    Args:
        benchmark: as the student reads it.
        reading: from a prompt to what its teacher reads; the same object where that is the same.
    """
    prompts = [benchmark.prompt(example) for example in benchmark.examples]
    read = [reading(prompt) for prompt in prompts]
    if all(new is prompt for new, prompt in zip(read, prompts, strict=True)):
        return benchmark
    examples = [
        replace(example, messages=prompt.messages, images=prompt.images)
        for example, prompt in zip(benchmark.examples, read, strict=True)
    ]
    fingerprint = content_hash([(example.id, example.messages, example.gold) for example in examples])
    return replace(benchmark, examples=examples, fingerprint=fingerprint)


def _primary_name(benchmark: Benchmark) -> str:
    """What the score that stands for a benchmark is called."""
    metrics, n = benchmark.spec.report.metrics[:1], benchmark.generation.n
    (statistic,) = build_metrics(metrics, n, spec_n=benchmark.spec.generation.n)
    return next(iter(statistic.scores(torch.ones(statistic.size, dtype=torch.float64))))


class BenchmarkEvaluation(Callback):
    """Evaluate the policy while it trains, on the engine that `uniopd validate` uses.

    Scores, intervals, samples and figures go to the loggers, answers to `records.parquet`, and a table with the scores
    before and after, beside the teachers', to the terminal and `summary.json`, with `before_after.png` as its picture.

    Args:
        benchmarks: names, groups or YAML files; `uniopd benchmarks` lists them, and `lm_eval:ifeval` is one of
            lm-eval's, `lmms_eval:mme` of lmms-eval's. Null: the held-out prompts of the datamodule, whenever Lightning
            validates (`trainer.val_check_interval`).
        profile: how much of the benchmarks (fixture, smoke, curve, paper).
        every_n_steps: optimizer steps between two evaluations of the benchmarks; null: only before and after.
        before: also before the first step.
        after: also after the last.
        teachers: also evaluate each teacher, once, on the benchmarks of the domain that it teaches, with what it reads
            as a teacher (`reads`, and `teacher_prompt` of rows) in the place of the prompts; not those on servers.
        limit: at most so many problems of each benchmark; null: as the profile says.
        max_rows: answers written at the same time. The engine is that of the module's `val_sampling`, whose own
            `max_rows` bounds vLLM; teachers answer by the loop.
        harness: how the harnesses' tasks are asked.
        judge: who judges the answers that no rule can (AlpacaEval 2, Arena-Hard, MM-Vet, Object HalBench, SedarEval);
            the options are those of `uniopd judge`. Null: nobody, and those of the last evaluation are exported for a
            judge.
    """

    def __init__(
        self,
        benchmarks: list[str] | None = None,
        profile: ProfileName = "curve",
        every_n_steps: int | None = None,
        before: bool = True,
        after: bool = True,
        teachers: bool = False,
        limit: int | None = None,
        max_rows: int = 64,
        harness: HarnessArgs = HarnessArgs(),  # noqa: B008  # frozen
        judge: JudgeArgs | None = None,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"BenchmarkEvaluation.every_n_steps must be at least 1, not {every_n_steps}.")
        if benchmarks is None and every_n_steps is not None:
            raise UserError(
                "BenchmarkEvaluation.every_n_steps is for benchmarks; held-out prompts are evaluated whenever "
                "Lightning validates: set --trainer.val_check_interval."
            )
        if benchmarks is None and judge is not None:
            raise UserError(
                "BenchmarkEvaluation.judge is for benchmarks, and held-out prompts have graders; name `benchmarks`, "
                "[mm_vet] say, or leave the judge out."
            )
        self.specs = None if benchmarks is None else expand(benchmarks, harness)
        self.profile: ProfileName = profile
        self.every_n_steps = every_n_steps
        self.before = before
        self.after = after
        self.with_teachers = teachers
        self.limit = limit
        self.judge = judge
        self.max_rows = max_rows
        self.scores_before: Scores = {}
        self.teacher_scores: dict[str, Scores] = {}
        self.earlier_seconds = 0.0
        self.last: EvalResult | None = None
        self._benchmarks: list[Benchmark] | None = None
        self._finished: Path | None = None

    def setup(self, trainer: Trainer, pl_module: PolicyModule, stage: str) -> None:  # type: ignore[override]
        if stage != "fit":
            return
        if self.specs is None:  # it takes the module's evaluator, which does not exist yet
            return
        directory = run_directory(trainer)
        benchmarks = self.load_benchmarks()
        judge = None if self.judge is None else EvaluationJudge(self.judge, benchmarks, "BenchmarkEvaluation.judge.")
        pl_module.validation.check(benchmarks)
        args = EvalArgs(max_rows=self.max_rows, sampling=pl_module.val_sampling)
        self.evaluator = Evaluator(trainer, benchmarks, pl_module.graders, directory, args, judge)
        self.reporter = Reporter(trainer, directory)

    @property
    def validates_after(self) -> bool:
        """Whether held-out prompts are answered after the last step, however seldom Lightning validates."""
        return self.specs is None and self.after

    def load_benchmarks(self) -> list[Benchmark]:
        """The benchmarks with their rows; none where the held-out prompts are evaluated.

        Raises:
            UserError: if one cannot be had.
        """
        if self._benchmarks is None:
            self._benchmarks = load_benchmarks(self.specs or (), self.profile, limit=self.limit)
        return self._benchmarks

    def essential_charts(self) -> Charts:
        """The score that stands for each benchmark; held-out prompts are in the module's charts."""
        scored = [b for b in self.load_benchmarks() if b.spec.scoring.judge is None and b.harness is None]
        return (
            {"Benchmarks (score)": [benchmark.tag(_primary_name(benchmark)) for benchmark in scored]} if scored else {}
        )

    # --- when ---

    def on_train_start(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        if self.specs is None:
            if pl_module.validation.evaluator is None or pl_module.validation.reporter is None:
                raise UserError(
                    "callbacks.BenchmarkEvaluation has nothing to evaluate; give held-out prompts with answers and a "
                    "`grader` by `val` of the data (--data.val.path, --data.val.grader), or name `benchmarks`."
                )
            self.evaluator, self.reporter = pl_module.validation.evaluator, pl_module.validation.reporter
        if trainer.global_step > 0:  # resumed: the first scores are in the checkpoint
            return
        if self.with_teachers:
            self.evaluate_teachers(pl_module)
        if self.before:
            self.scores_before = self.evaluate(trainer, pl_module).primary()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: PolicyModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_passes_multiple(trainer, self.every_n_steps):
            self.evaluate(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        if self.specs is None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.last = pl_module.validation.result
            self.reporter.draw_references(self.references())

    def on_train_end(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        if self.after and (self.last is None or self.last.step != trainer.global_step):
            self.evaluate(trainer, pl_module)
        if self.last is not None and trainer.is_global_zero:
            self._write_summary(self.last, pl_module)
            self._draw_summary(self.last, trainer)

    # --- what ---

    def evaluate(self, trainer: Trainer, pl_module: PolicyModule) -> EvalResult:
        """Evaluate the policy as it is now, and publish the result."""
        self.last = self.evaluator.run(pl_module.policy_for, "student", trainer.global_step)
        self.reporter.publish(self.last, references=self.references())
        return self.last

    def evaluate_teachers(self, pl_module: PolicyModule) -> None:
        """Evaluate each teacher on the benchmarks that are routed to it, as it reads them."""
        pool: Any = getattr(pl_module, "teachers", None)
        if pool is None:
            raise UserError("BenchmarkEvaluation.teachers needs a module with teachers; set it to false.")
        for name in pool.args:
            if not pool.is_here(name):
                rank_zero_warn(f"Teacher {name!r} is on a server, which scores answers only; it is not evaluated.")
                continue

            def teacher(_: Benchmark, name: str = name) -> Policy:
                return pool[name]

            benchmarks = self.evaluator.benchmarks.values()
            routed = [b for b in benchmarks if name in pool.readings(b.prompt(b.examples[0]))]
            routed = [as_read(b, lambda prompt, name=name: pool.readings(prompt)[name]) for b in routed]
            if routed:
                by_loop = self._by_the_loop(pl_module)
                self.teacher_scores[name] = by_loop.run(teacher, f"teacher {name}", 0, only=routed).primary()
        pool.rest()

    def _by_the_loop(self, pl_module: PolicyModule) -> Evaluator:
        """For teachers: servers have the student's weights, and vLLM in this process would hold an engine for each."""
        student = self.evaluator
        args = EvalArgs(max_rows=student.args.max_rows, sampling=SamplingArgs(engine="loop"))
        benchmarks = list(student.benchmarks.values())
        return Evaluator(student.trainer, benchmarks, pl_module.graders, student.directory, args, student.judge)

    def references(self) -> dict[str, Scores]:
        """Scores of other models: drawn as lines, and columns of the table."""
        lines = {"before": self.scores_before} if self.scores_before else {}
        teachers = {key: score for scores in self.teacher_scores.values() for key, score in scores.items()}
        return {**lines, "teachers": teachers} if teachers else lines

    # --- the end ---

    def _write_summary(self, result: EvalResult, pl_module: PolicyModule) -> None:
        directory = self.evaluator.directory
        summary = {
            "before": result.by_name(self.scores_before),
            "after": result.by_name(result.primary()),
            "teachers": result.by_name(self.references().get("teachers", {})),
            "seconds": round(self.seconds, 1),
            "seed": getattr(pl_module, "seed", None),
        }
        write_json(directory / SUMMARY, {**summary, **summary_of(result)})
        self._finished = directory

    def _draw_summary(self, result: EvalResult, trainer: Trainer) -> None:
        """The table as a picture, in the run's directory and for its loggers."""
        columns = {"before": self.scores_before, "after": result.primary(), **self.references()}
        shown = {name: result.by_name(scores) for name, scores in columns.items() if scores}
        if shown.get("after"):
            figure = before_after_figure(shown)
            figure.savefig(self.evaluator.directory / FIGURE, dpi=110)
            log_figure(trainer, "before_after", figure)

    def teardown(self, trainer: Trainer, pl_module: PolicyModule, stage: str) -> None:  # type: ignore[override]
        if self._finished is None or self.last is None:
            return
        if trainer.progress_bar_callback is not None:  # it would draw itself once more, below the table
            trainer.progress_bar_callback.teardown(trainer, pl_module, stage)
        references = self.references()
        columns = {"before": references.get("before"), "": {}, "teachers": references.get("teachers")}
        data = "Held-out prompts" if self.specs is None else f"Benchmarks, profile {self.profile}"
        title = f"{data} (step {self.last.step}, {self.seconds:.0f} s)"
        shown = {name: scores for name, scores in columns.items() if scores is not None}
        wide_console().print(score_table(self.last, title, shown, heading="after"))
        self._finished = None

    @property
    def seconds(self) -> float:
        """Wall time of the run and of the runs that it resumed."""
        return self.earlier_seconds + time.time() - STARTED

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.scores_before, "teachers": self.teacher_scores, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scores_before, self.teacher_scores = state_dict["before"], state_dict["teachers"]
        self.earlier_seconds = state_dict["seconds"]
