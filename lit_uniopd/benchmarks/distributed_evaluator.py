"""Benchmarks over ranks: each rank answers its shard, sums are added up, rank 0 reads all records and reports."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning import Trainer

from lit_uniopd.benchmarks.engine import EvalArgs, EvalEngine
from lit_uniopd.benchmarks.harness.scoring import HarnessScores, harness_card, harness_scores
from lit_uniopd.benchmarks.metrics import build_metrics
from lit_uniopd.benchmarks.metrics.scorecard import BenchmarkScores, behind, judged_card, score_benchmark
from lit_uniopd.benchmarks.metrics.sum_metric import SumMetric
from lit_uniopd.benchmarks.records import PENDING, RECORDS, Record, grouped, read_records
from lit_uniopd.benchmarks.shards import Request, eval_batches
from lit_uniopd.benchmarks.spec import Benchmark, section
from lit_uniopd.distributed.preemption import interruptible
from lit_uniopd.errors import UserError
from lit_uniopd.policy.policy import Policy
from lit_uniopd.rewards import GraderPool
from lit_uniopd.sampling.engines import staying_awake
from lit_uniopd.utils.progress import progress_bar, say
from lit_uniopd.utils.progress_text import joined, number

log = logging.getLogger(__name__)


class AnswersJudge(Protocol):
    """Scores answers that no rule can (`lit_uniopd.benchmarks.judging.evaluation`)."""

    keys: frozenset[str]
    """Of the benchmarks that it judges."""

    def result(self, key: str, records: Sequence[Record], directory: Path) -> dict[str, Any]:
        """Scores of a benchmark's answers, and where they come from."""
        ...


@dataclass(slots=True)
class EvalResult:
    """One evaluation of one model."""

    name: str
    """Of the model, for people."""
    step: int
    benchmarks: dict[str, Benchmark]
    """By ``Benchmark.key``."""
    scores: dict[str, dict[str, float]]
    """Key -> score -> value, the same on every rank; the first score stands for the benchmark."""
    complete: dict[str, bool]
    """Key -> whether every row was answered."""
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    """Group of a harness's tasks -> score -> value, as the harness aggregates them."""
    records: dict[str, list[Record]] = field(default_factory=dict)
    """Rank 0: of all ranks. Other ranks: their own."""
    cards: dict[str, BenchmarkScores] = field(default_factory=dict)
    """Rank 0: intervals, breakdowns and health."""
    judged: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Key -> what a judge has said, with its name and wording."""

    def by_name(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Scores by the benchmark's name for people: held-out prompts by their domain."""
        return {self.benchmarks[key].name: score for key, score in scores.items() if key in self.benchmarks}

    def tagged(self) -> dict[str, float]:
        """TensorBoard tag -> value of every score."""
        return {
            self.benchmarks[key].tag(name): value
            for key, scores in self.scores.items()
            for name, value in scores.items()
        } | self._tagged_groups()

    def _tagged_groups(self) -> dict[str, float]:
        if not self.groups:
            return {}
        task = next(benchmark for benchmark in self.benchmarks.values() if benchmark.harness is not None)
        return {
            f"{section(task.profile)}/{group.partition(':')[0]}/{group}/{name}": value
            for group, scores in self.groups.items()
            for name, value in scores.items()
        }

    def primary(self) -> dict[str, float]:
        """Key -> the score that stands for the benchmark; benchmarks without a grader have none."""
        return {key: next(iter(scores.values())) for key, scores in self.scores.items() if scores}


class Evaluator:
    """Runs benchmarks under a trainer.

    Args:
        trainer: gives rank, world size and directories.
        benchmarks: what to run.
        graders: where answers are judged.
        directory: of the run; records go below it.
        args: how to run.
        judge: scores what no grader can; None: such answers have no score.
    """

    def __init__(
        self,
        trainer: Trainer,
        benchmarks: Sequence[Benchmark],
        graders: GraderPool,
        directory: Path,
        args: EvalArgs = EvalArgs(),  # noqa: B008  # frozen
        judge: AnswersJudge | None = None,
    ) -> None:
        self.trainer = trainer
        self.judge = judge
        self.benchmarks = {benchmark.key: benchmark for benchmark in benchmarks}
        self.directory = directory
        self.args = args
        self.engine = EvalEngine(
            graders,
            directory / RECORDS,
            adopt=earlier_records(directory),
            args=args,
            rank=trainer.global_rank,
        )
        self._name, self._step = "", 0

    def begin(self, name: str, step: int) -> None:
        """Start evaluating a model; all ranks read what earlier runs recorded before any of them writes."""
        self._name, self._step = name, step
        self.engine.begin(name, step)
        self.trainer.strategy.barrier("records are read")

    def answer(self, policy: Policy, requests: Sequence[Request]) -> None:
        """Answer one batch of this rank."""
        self.engine.answer(policy, requests)

    def run(
        self,
        policy_of: Callable[[Benchmark], Policy],
        name: str,
        step: int,
        only: Sequence[Benchmark] | None = None,
    ) -> EvalResult:
        """Evaluate a model from beginning to end, outside of Lightning's loops.

        Args:
            policy_of: benchmark -> the policy that answers it.
            name: of the model, for people.
            step: of the training run.
            only: these benchmarks. None: all.
        """
        self.begin(name, step)
        benchmarks = list(self.benchmarks.values()) if only is None else only
        with staying_awake():
            for benchmark in benchmarks:
                self._run_benchmark(benchmark, policy_of(benchmark), f"{name} answers {benchmark.name}")
        result = self.finish(benchmarks)
        scores = result.by_name(result.primary()).items()
        say(joined(f"{name} at step {step}", *(f"{title} {number(score)}" for title, score in scores)))
        return result

    def _run_benchmark(self, benchmark: Benchmark, policy: Policy, title: str) -> None:
        """Answer this rank's rows."""
        batches = eval_batches(
            benchmark, self.args.max_rows, rank=self.trainer.global_rank, world_size=self.trainer.world_size
        )
        with policy.gathered(), progress_bar(sum(map(len, batches)), title, announce=True) as bar:
            for batch in batches:
                with interruptible(self.trainer):
                    self.answer(policy, batch.requests)
                bar.update(len(batch))

    def finish(self, only: Sequence[Benchmark] | None = None) -> EvalResult:
        """Wait for the graders and add up over the ranks. A collective call.

        Args:
            only: what was evaluated. None: all.
        """
        with interruptible(self.trainer):
            records_by_key = self.engine.finish()
        evaluated = self.benchmarks if only is None else {benchmark.key: benchmark for benchmark in only}
        result = EvalResult(self._name, self._step, evaluated, {}, {})
        harness = self._harness_scores(evaluated, records_by_key)
        result.groups = harness.groups
        for key, benchmark in evaluated.items():
            records = records_by_key.get(key, [])
            if benchmark.harness is not None:
                result.scores[key] = harness.tasks[key].values
                result.complete[key] = harness.answers[key] == len(benchmark.examples) * benchmark.generation.n
                result.records[key] = records
                continue
            metric = SumMetric(
                build_metrics(benchmark.spec.report.metrics, benchmark.generation.n, spec_n=benchmark.spec.generation.n)
            )
            metric = metric.to(self.trainer.strategy.root_device)
            for group in grouped(records):
                metric.update(group)
            graded = any(benchmark.grader(example) for example in benchmark.examples)
            answers = self._sum(len(records))
            result.complete[key] = answers == len(benchmark.examples) * benchmark.generation.n
            result.scores[key] = metric.compute() if graded and answers else {}
            result.records[key] = records
        self.trainer.strategy.barrier("records are written")
        if self.trainer.is_global_zero:
            self._merge(result, harness)
        self._add_judged(result)
        return result

    def _add_judged(self, result: EvalResult) -> None:
        """Scores by the judge, which rank 0 asks; one that fails costs a score, which `uniopd judge` may still give."""
        judge, judged = self.judge, {}
        keys = [] if judge is None else [key for key in result.benchmarks if key in judge.keys and result.complete[key]]
        if judge is None or not keys:
            return
        with interruptible(self.trainer):
            for key in keys if self.trainer.is_global_zero else ():
                try:
                    judged[key] = judge.result(key, result.records[key], self.directory)
                except UserError as error:
                    log.warning("%s of %s has no score at step %d: %s", key, result.name, result.step, error)
        result.judged = self.trainer.strategy.broadcast(judged)
        for key, judgement in result.judged.items():
            result.scores[key] |= behind(result.scores[key], judgement["scores"])
            if self.trainer.is_global_zero:
                result.cards[key] = judged_card(result.cards.get(key), judgement, result.records[key])

    def _harness_scores(
        self, evaluated: Mapping[str, Benchmark], records: Mapping[str, Sequence[Record]]
    ) -> HarnessScores:
        """Scores of harnesses' tasks, the same on every rank: they are no sums, so all answers come together."""
        tasks = {key: benchmark for key, benchmark in evaluated.items() if benchmark.harness is not None}
        if not tasks:
            return HarnessScores({}, {}, {})
        answers = {key: {(r.sample_id, r.sample_idx): r.response for r in records.get(key, ())} for key in tasks}
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, answers)
            answers = {key: {row: text for part in parts for row, text in part[key].items()} for key in tasks}
        at_zero = self.trainer.is_global_zero
        scores: Any = harness_scores(tasks, answers, self.directory) if at_zero else None
        return self.trainer.strategy.broadcast(scores)  # some of their verdicts have time limits

    def _merge(self, result: EvalResult, harness: HarnessScores) -> None:
        """Rank 0: add the other ranks' records."""
        if self.trainer.world_size > 1:
            evaluation_keys = self._evaluation_keys(result)
            for record in read_records(sorted((self.directory / RECORDS).glob("*.jsonl"))):
                key = f"{record.benchmark}@{record.protocol}"
                made = (key, record.weights, record.profile, record.fingerprint)
                if record.reason != PENDING and made in evaluation_keys:
                    result.records[key].append(record)
            result.records = {key: list({r.key: r for r in rows}.values()) for key, rows in result.records.items()}
        for key, benchmark in result.benchmarks.items():
            if benchmark.harness is not None and result.scores[key]:
                result.cards[key] = harness_card(harness.tasks[key], result.records[key])
            elif result.scores[key]:
                result.cards[key] = score_benchmark(result.records[key], benchmark.spec, benchmark.generation)

    def _evaluation_keys(self, result: EvalResult) -> set[tuple[str, str, str, str]]:
        """Key, weights, profile and rows of every benchmark of this evaluation.

        A teacher may have the student's weights, and its answers are those to other prompts.
        """
        # The weights of all benchmarks together: of a small one rank 0 may have no row.
        weights = {record.weights for records in result.records.values() for record in records}
        return {
            (key, fingerprint, benchmark.profile, benchmark.fingerprint)
            for key, benchmark in result.benchmarks.items()
            for fingerprint in weights
        }

    def _sum(self, value: int) -> int:
        if self.trainer.world_size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.int64, device=self.trainer.strategy.root_device)
        return int(self.trainer.strategy.reduce(tensor, reduce_op="sum"))


def earlier_records(directory: Path) -> list[Path]:
    """Records of the other versions of the same run, newest first."""
    siblings = [folder for folder in directory.parent.glob(f"*/{RECORDS}") if folder.parent != directory]
    return sorted(siblings, key=lambda folder: folder.stat().st_mtime, reverse=True)
