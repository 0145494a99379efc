"""How a module validates: its policies answer benchmarks, or held-out prompts as benchmarks of their own."""

from contextlib import ExitStack
from itertools import chain
from typing import Protocol

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only

from lit_uniopd.benchmarks.distributed_evaluator import EvalResult, Evaluator
from lit_uniopd.benchmarks.engine import EvalArgs
from lit_uniopd.benchmarks.golds import benchmark_objections
from lit_uniopd.benchmarks.heldout import example_of, heldout_benchmarks
from lit_uniopd.benchmarks.judging.evaluation import EvaluationJudge
from lit_uniopd.benchmarks.length_estimate import amount, seconds_per_step
from lit_uniopd.benchmarks.report.reporter import Reporter
from lit_uniopd.benchmarks.report.summary import compact
from lit_uniopd.benchmarks.shards import EvalBatch, Request
from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.errors import UserError
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.loading import reads_images
from lit_uniopd.policy.policy import Policy
from lit_uniopd.rewards import GraderPool
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.engines import staying_awake
from lit_uniopd.types import PromptBatch
from lit_uniopd.utils.objections import refuse_or_warn
from lit_uniopd.utils.run_directory import run_directory
from lit_uniopd.utils.trainer_data import TrainerData


class EvaluatedModels(Protocol):
    """Whose answers are scored: one policy, or one for each kind of benchmark."""

    @property
    def model_name(self) -> str:
        """For tables and files."""
        ...

    @property
    def evaluated_policies(self) -> list[Policy]:
        """All of them, loaded."""
        ...

    @property
    def evaluated_args(self) -> list[tuple[PolicyArgs, str]]:
        """Of all of them, with the options that they come from; asked before anything is loaded."""
        ...

    def policy_args_for(self, benchmark: Benchmark) -> tuple[PolicyArgs, str]:
        """Who answers a benchmark, and the option it comes from; asked before anything is loaded."""
        ...

    def policy_for(self, benchmark: Benchmark) -> Policy:
        """The same, loaded."""
        ...


class Validation:
    """Answers, grades, records and reports, in the order of Lightning's validation loop.

    Args:
        models: whose answers are scored.
        sampling: how held-out prompts are answered; benchmarks bring their own decoding settings, and take the engine.
        graders: where answers are judged.
        answers_heldout: False: benchmarks alone are answered, held-out prompts are for a loss of the module's own.

    Raises:
        UserError: if answers should be written ahead, which only those of training are.

    Attributes:
        args: how benchmarks are run.
        heldout: domain -> its held-out prompts, as a benchmark.
        evaluator: None where there is nothing to answer.
        reporter: of this run.
        result: of the last validation.
    """

    def __init__(
        self, models: EvaluatedModels, sampling: SamplingArgs, graders: GraderPool, *, answers_heldout: bool = True
    ) -> None:
        if sampling.lag:
            raise UserError(
                "--model.val_sampling.lag 1 has no meaning: only a training rollout can be written beside an update; "
                "leave it out."
            )
        self.models, self.sampling, self.graders = models, sampling, graders
        self.answers_heldout = answers_heldout
        self.args = EvalArgs(sampling=sampling)
        self.heldout: dict[str, Benchmark] = {}
        self.evaluator: Evaluator | None = None
        self.reporter: Reporter | None = None
        self.result: EvalResult | None = None
        self._gathered = ExitStack()

    def setup(self, trainer: Trainer, stage: str) -> None:
        """Take the benchmarks of the datamodule, else its held-out prompts.

        Raises:
            UserError: as ``check``.
        """
        directory = run_directory(trainer)
        self.reporter = Reporter(trainer, directory)
        data = TrainerData(trainer)
        benchmarks = data.benchmarks
        if benchmarks is None and self.answers_heldout:
            split = "test" if stage == "test" else "val"
            self.heldout = heldout_benchmarks(data.prompts(split), self.sampling, split)
            benchmarks = list(self.heldout.values())
        judge = None if data.judge is None else EvaluationJudge(data.judge, benchmarks or [], "--data.judge.")
        if benchmarks:
            self.check(benchmarks)
        self.args = EvalArgs(max_rows=data.max_rows or self.sampling.max_rows, sampling=self.sampling)
        if benchmarks:
            self.evaluator = Evaluator(trainer, benchmarks, self.graders, directory, self.args, judge)
        else:
            self.evaluator = None

    def check(self, benchmarks: list[Benchmark]) -> None:
        """Refuse what these models or this machine cannot run, and try the gold answers, before any model is loaded.

        Raises:
            UserError: naming the benchmark and the remedy.
        """
        for benchmark in benchmarks:
            args, flag = self.models.policy_args_for(benchmark)
            if benchmark.spec.modality == "image" and not reads_images(args, flag):
                raise UserError(
                    f"Benchmark {benchmark.key} has pictures, which --{flag}.path {args.path} cannot read; choose an "
                    "image-text model or leave the benchmark out."
                )
        graders = {name for b in benchmarks for e in b.examples if (name := b.grader(e)) is not None}
        self.graders.prepare(sorted(graders | {name for b in benchmarks for name in b.spec.scoring.also}))
        self._try_golds(benchmarks)

    @rank_zero_only
    def _try_golds(self, benchmarks: list[Benchmark]) -> None:
        refuse_or_warn(chain.from_iterable(benchmark_objections(b, self.graders) for b in benchmarks))

    def gather(self) -> None:
        """Hold whole weights until ``release``: ranks have differing numbers of rows to answer."""
        self.release()
        for policy in self.models.evaluated_policies:
            self._gathered.enter_context(policy.gathered())
        self._gathered.enter_context(staying_awake())

    def release(self) -> None:
        """Back to shards."""
        self._gathered.close()

    def begin(self, step: int) -> None:
        """A validation begins.

        Args:
            step: optimizer steps that the weights have taken.
        """
        self.gather()
        if self.evaluator is not None:
            self.evaluator.begin(self.models.model_name, step)

    def estimate(self, ranks: int) -> str:
        """A line on how long the validation that has begun can take; empty where nothing is answered.

        Args:
            ranks: that share the rows.
        """
        if self.evaluator is None:
            return ""
        all_rows = amount(self.evaluator.benchmarks.values(), self.args.max_rows, ranks)
        slowest = 0.0
        for policy in self.models.evaluated_policies:
            answered = [b for b in self.evaluator.benchmarks.values() if self.models.policy_for(b) is policy]
            if answered:
                batch = amount(answered, self.args.max_rows, ranks).batch
                slowest = max(slowest, seconds_per_step(policy, self.args, answered[0], batch))
        return all_rows.text(slowest)

    def answer(self, batch: PromptBatch | EvalBatch) -> None:
        """Answer held-out prompts or a batch of a benchmark; an empty batch only keeps ranks in step."""
        if self.evaluator is not None and (requests := self._requests(batch)):
            self.evaluator.answer(self.models.policy_for(requests[0].benchmark), requests)

    def _requests(self, batch: PromptBatch | EvalBatch) -> list[Request]:
        """What is to be answered; held-out prompts without a grader are not."""
        if isinstance(batch, EvalBatch):
            return list(batch)
        return [Request(self.heldout[p.domain], example_of(p)) for p in batch if p.grader is not None]

    def finish(self) -> EvalResult | None:
        """Scores of this validation over all ranks, if anything was answered. A collective call."""
        self.release()
        if self.evaluator is not None:
            self.result = self.evaluator.finish()
            return self.result
        return None

    def scores(self, result: EvalResult) -> tuple[dict[str, float], dict[str, float]]:
        """Tag -> score of everything, and the one number of held-out prompts, for progress bar and monitors."""
        primary = result.primary()
        if not self.heldout or not primary:
            return result.tagged(), {}
        split = next(iter(self.heldout.values())).spec.protocol
        return result.tagged(), {f"{split}/accuracy": sum(primary.values()) / len(primary)}

    def publish(self, result: EvalResult, *, final: bool) -> None:
        """Add intervals, health, figures and tables to the scores, which are logged already."""
        assert self.reporter is not None, "setup comes first"
        self.reporter.publish(result, final=final, scores_logged=True)

    def compact_records(self) -> None:
        """Nothing more is recorded, neither by the module nor by a callback."""
        if self.reporter is not None:
            compact(self.reporter.directory)

    def show(self) -> None:
        """Print the last table."""
        if self.reporter is not None:
            self.reporter.show()
