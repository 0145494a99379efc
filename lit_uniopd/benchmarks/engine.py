"""The evaluation engine: prompts in, records and scores out.

It knows no trainer. ``validation_step`` and the callback ``BenchmarkEvaluation`` drive it alike: `begin`, `answer`
batch after batch, `finish`.
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_uniopd.benchmarks.conversation import write_conversations
from lit_uniopd.benchmarks.fingerprint import generation_hash, prompt_hash
from lit_uniopd.benchmarks.grading import grade_items, version_of, with_grades
from lit_uniopd.benchmarks.metrics.statistic import by_row
from lit_uniopd.benchmarks.records import PENDING, Record, RecordWriter, brief_gold, read_records
from lit_uniopd.benchmarks.shards import Request
from lit_uniopd.benchmarks.spec import Benchmark, Generation
from lit_uniopd.benchmarks.weights_fingerprint import weights_fingerprint
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.policy import Policy
from lit_uniopd.rewards import GradeItem, GraderPool
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.engines import settled
from lit_uniopd.types import Grade
from lit_uniopd.utils.progress import progress_bar
from lit_uniopd.utils.stop_request import poll

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EvalArgs:
    """How benchmarks are run."""

    max_rows: int = 64
    """Answers of a batch, which are recorded together. All are written at the same time, but by vLLM, which takes as
    many of them at once as ``sampling.max_rows`` says."""
    seed: int = 42
    """Of sampled answers. The same at every step, so that checkpoints are compared on the same noise."""
    sampling: SamplingArgs = field(default_factory=SamplingArgs)
    """Whose engine writes, and its servers or its room; benchmarks bring their own decoding settings."""

    def settled_for(self, policy: Policy) -> "EvalArgs":
        """With the engine that writes for a policy in the place of ``auto``."""
        return replace(self, sampling=settled(self.sampling, policy.model, policy.processor))


@dataclass(slots=True)
class _Batch:
    """Answers on their way through the graders."""

    records: list[Record]
    grades: list[list[Future[Grade]]]
    """Per record: the verdict of the benchmark's grader, then those of the further ones."""


@dataclass(slots=True)
class _Subject:
    """The model that is being evaluated."""

    name: str
    step: int
    weights: dict[int, str] = field(default_factory=dict)
    """id of the policy -> fingerprint, made when it first answers."""
    args: dict[int, EvalArgs] = field(default_factory=dict)
    """id of the policy -> how it is run, with its engine."""


class EvalEngine:
    """Answers, grades and records; reuses the answers of earlier runs.

    Args:
        graders: judge the answers.
        directory: of this run's records, one file per rank.
        adopt: directories of earlier runs. Their answers are taken over where weights, prompt, row, decoding and seed
            are the same.
        args: how to run.
        rank: this process.
    """

    def __init__(
        self,
        graders: GraderPool,
        directory: Path,
        *,
        adopt: Iterable[Path] = (),
        args: EvalArgs = EvalArgs(),  # frozen
        rank: int = 0,
    ) -> None:
        self.graders = graders
        self.args = args
        self.rank = rank
        self.directory = directory
        self.writer = RecordWriter(directory / f"rank{rank}.jsonl")
        self.adopted = 0
        self._folders = [*dict.fromkeys([*adopt, directory])]
        self._recorded: dict[tuple[Any, ...], Record] | None = None
        self._written_keys: set[tuple[Any, ...]] = set()
        self._evaluated: dict[str, dict[tuple[Any, ...], Record]] = {}
        self._pending: deque[_Batch] = deque()
        self._subject = _Subject("", 0)

    # --- one evaluation ---

    def begin(self, name: str, step: int) -> None:
        """Start evaluating a model.

        Args:
            name: of the model, for people.
            step: of the training run; 0 outside of one.
        """
        if self._recorded is None:  # once: what this run writes later is added in memory
            files = [file for folder in self._folders for file in sorted(folder.glob("*.jsonl"))]
            self._recorded = {record.key: record for record in read_records(files)}
            self._written_keys = {record.key for record in read_records(sorted(self.directory.glob("*.jsonl")))}
        self._subject = _Subject(name, step)
        self._evaluated = defaultdict(dict)
        self._pending.clear()
        self.adopted = 0

    def answer(self, policy: Policy, requests: Sequence[Request]) -> None:
        """Answer one batch, except what is recorded already; its grading goes on while the next batch is answered.

        Args:
            policy: answers.
            requests: rows of benchmarks with the same decoding settings.
        """
        missing = [request for request in requests if not self._take_over(policy, request)]
        if missing:
            self._submit(self._generate(policy, missing), [r for r in missing for _ in range(_settings(r).n)])
        while self._pending and all(f.done() for futures in self._pending[0].grades for f in futures):
            self._collect()

    def finish(self) -> dict[str, list[Record]]:
        """Wait for the graders.

        Returns:
            This rank's records of this evaluation by ``Benchmark.key``, adopted ones included.
        """
        with progress_bar(sum(len(batch.records) for batch in self._pending), "grading answers", unit="answer") as bar:
            while self._pending:
                bar.update(self._collect())
        if self.adopted:
            log.info("%d answers were taken over from earlier runs.", self.adopted)
        return {key: list(records.values()) for key, records in self._evaluated.items()}

    # --- steps ---

    def _take_over(self, policy: Policy, request: Request) -> bool:
        """Use recorded answers if all n are there, and grade those without a verdict on this gold by this grader."""
        assert self._recorded is not None, "begin() comes first"
        blanks = self._blank_records(policy, request)
        recorded = [self._recorded.get(blank.key) for blank in blanks]
        records = [record for record in recorded if record is not None]
        if len(records) < len(blanks):
            return False
        self.adopted += len(records)
        judged: list[Record] = []
        ungraded: list[Record] = []
        for blank, record in zip(blanks, records, strict=True):
            taken = replace(record, fingerprint=blank.fingerprint, model=blank.model, step=blank.step)
            if request.benchmark.harness is not None:
                ungraded.append(taken)  # a harness's verdicts cost little, and are those of the version that scores
            elif record.reason == PENDING or not record.is_judged_as(blank):
                ungraded.append(record.answer_in(blank))
            else:
                judged.append(taken)
        # The run's own files must hold every answer behind its scores.
        self._write_records([record for record in judged if record.key not in self._written_keys])
        self._remember(request.benchmark, judged)
        if ungraded:
            self._submit(ungraded, [request] * len(ungraded))
        return True

    def _write_records(self, records: Sequence[Record]) -> None:
        self.writer.append(records)
        self._written_keys.update(record.key for record in records)

    def _generate(self, policy: Policy, requests: Sequence[Request]) -> list[Record]:
        """Records with the policy's answers, not graded yet."""
        settings = _settings(requests[0])
        if any(_settings(request) != settings for request in requests):
            raise ValueError("requests of one batch must share their decoding settings")
        start = time.perf_counter()
        answers = self._answers(policy, requests, settings)
        seconds = (time.perf_counter() - start) / len(answers)
        blanks = [blank for request in requests for blank in self._blank_records(policy, request)]
        return [
            replace(
                blank,
                response=text,
                n_tokens=length,
                finish=finish,
                seconds_generate=round(seconds, 6),
                time=round(time.time(), 3),
            )
            for blank, (text, length, finish) in zip(blanks, answers, strict=True)
        ]

    def _answers(self, policy: Policy, requests: Sequence[Request], settings: Generation) -> list[tuple[str, int, str]]:
        """Text, tokens and end of ``n`` answers to each row, side by side."""
        benchmark, examples = requests[0].benchmark, [request.example for request in requests]
        sampling = sampling_args(settings, self._args_for(policy))
        if benchmark.harness is not None and benchmark.harness.renders:
            return benchmark.harness.answer(
                policy, benchmark, examples, sampling, rows=self.args.max_rows, seed=self.args.seed
            )
        with chatting(policy, benchmark):
            return write_conversations(policy, benchmark, examples, sampling, seed=self.args.seed)

    def _submit(self, records: list[Record], requests: Sequence[Request]) -> None:
        harness = requests[0].benchmark.harness
        if harness is not None:
            pending = {record.key for record in records if record.reason == PENDING}
            self.writer.append(record for record in records if record.key in pending)
            judged = [record for row in by_row(records) for record in harness.judged(row)]
            self._keep(judged, [r for r in judged if r.key in pending or r.key not in self._written_keys])
            return
        items: list[GradeItem] = []
        for record, request in zip(records, requests, strict=True):
            items += grade_items(record, request)
        futures = iter(self.graders.submit(items))
        grades = [[next(futures) for _ in grade_items(*pair)] for pair in zip(records, requests, strict=True)]
        # Answers are recorded before slow verdicts arrive, so that a killed run keeps them.
        self.writer.append(
            record for record, verdicts in zip(records, grades, strict=True) if not all(f.done() for f in verdicts)
        )
        self._pending.append(_Batch(records, grades))

    def _collect(self) -> int:
        """Record the verdicts of the oldest batch, and wait for them if necessary."""
        poll()  # a signal that stops this process may also have killed the programs that it judges
        batch = self._pending.popleft()
        judged = [
            self._judged(record, [f.result() for f in futures])
            for record, futures in zip(batch.records, batch.grades, strict=True)
        ]
        self._keep(judged, judged)
        return len(judged)

    def _keep(self, judged: Sequence[Record], unwritten: Sequence[Record]) -> None:
        self._write_records(unwritten)
        for record in judged:
            self._evaluated[f"{record.benchmark}@{record.protocol}"][record.key] = record
            self._recorded[record.key] = record  # type: ignore[index]

    def _judged(self, record: Record, grades: list[Grade]) -> Record:
        return with_grades(record, grades, sandbox=self.graders.sandbox_backend)

    def _remember(self, benchmark: Benchmark, records: Iterable[Record]) -> None:
        self._evaluated[benchmark.key].update((record.key, record) for record in records)

    def _prompt_hash(self, policy: Policy, request: Request) -> str:
        benchmark, example = request.benchmark, request.example
        if benchmark.harness is not None and benchmark.harness.renders:
            return benchmark.harness.requests_hash(policy, example)
        return prompt_hash(example, protocol_args(policy.args, benchmark).chat_template_kwargs)

    def _args_for(self, policy: Policy) -> EvalArgs:
        if id(policy) not in self._subject.args:
            self._subject.args[id(policy)] = self.args.settled_for(policy)
        return self._subject.args[id(policy)]

    def _blank_records(self, policy: Policy, request: Request) -> list[Record]:
        """The records of a row before it is answered: all that their keys need."""
        benchmark, example = request.benchmark, request.example
        subject = self._subject
        if id(policy) not in subject.weights:
            subject.weights[id(policy)] = weights_fingerprint(policy.model)
        # Greedy answers do not depend on it, and vLLM's engine need not be made to find them recorded.
        engine = self._args_for(policy).sampling.engine if benchmark.generation.temperature else ""
        shared: dict[str, Any] = {
            "benchmark": benchmark.spec.id,
            "protocol": benchmark.spec.protocol,
            "version": benchmark.spec.version,
            "profile": benchmark.profile,
            "fingerprint": benchmark.fingerprint,
            "sample_id": example.id,
            "group_id": example.group or example.id,
            "prompt_hash": self._prompt_hash(policy, request),
            "generation_hash": generation_hash(benchmark.generation, self.args.seed, engine),
            "weights": subject.weights[id(policy)],
            "model": subject.name,
            "step": subject.step,
            "gold": brief_gold(example.gold),
            "options": {**benchmark.spec.scoring.options, **example.options},
            "grader": benchmark.grader(example) or "",
            "grader_version": version_of([benchmark.grader(example) or "", *benchmark.spec.scoring.also]),
            "also": dict.fromkeys(benchmark.spec.scoring.also, 0.0),
            "breakdown": dict(example.breakdown),
            "rank": self.rank,
        }
        return [Record(sample_idx=k, **shared) for k in range(benchmark.generation.n)]


def protocol_args(args: PolicyArgs, benchmark: Benchmark) -> PolicyArgs:
    """A policy's arguments with the chat template's and the limit of pixels that a benchmark's protocol says.

    The user's own arguments of the chat template come last and win.
    """
    pixels = benchmark.generation.max_pixels
    return replace(
        args,
        chat_template_kwargs={**benchmark.spec.prompt.chat, **args.chat_template_kwargs},
        max_pixels=args.max_pixels if pixels is None else pixels,
    )


@contextmanager
def chatting(policy: Policy, benchmark: Benchmark) -> Iterator[None]:
    """Let the policy render prompts and pictures as the benchmark's protocol says, for the time of the context."""
    original_args = policy.args
    policy.args = protocol_args(original_args, benchmark)
    try:
        yield
    finally:
        policy.args = original_args


def _settings(request: Request) -> Generation:
    return request.benchmark.generation


def sampling_args(generation: Generation, args: EvalArgs) -> SamplingArgs:
    """A benchmark's decoding settings, and the engine of ``args``."""
    return replace(
        args.sampling,
        n=generation.n,
        max_new_tokens=generation.max_new_tokens,
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        max_rows=args.sampling.max_rows if args.sampling.engine == "vllm" else args.max_rows,
    )
