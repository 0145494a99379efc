"""How long an evaluation can take, from a trial of a few tokens before it begins."""

import time
from collections.abc import Collection
from dataclasses import dataclass, replace

from lit_uniopd.benchmarks.conversation import most_turns
from lit_uniopd.benchmarks.engine import EvalArgs, sampling_args
from lit_uniopd.benchmarks.shards import eval_batches
from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.engines import sample
from lit_uniopd.utils.progress_text import duration, joined, share

TRIAL_TOKENS = 8
"""Tokens that each answer of the trial has."""
PROMPT_TOKENS = 16
"""Tokens of its prompts: reading the true ones is left out."""


@dataclass(frozen=True, slots=True)
class Amount:
    """What an evaluation has to write on one rank, at most."""

    problems: int
    answers: int
    longest: int
    """Tokens of the longest answer that is allowed."""
    batch: int
    """Answers of the largest batch."""
    steps: int
    """Tokens that are written one after the other, if every answer is as long as allowed: batches times length."""

    def text(self, seconds_per_step: float) -> str:
        """A line for people.

        Example:
            >>> Amount(problems=30, answers=480, longest=1000, batch=64, steps=8000).text(0.03)
            '30 problems · 480 answers of at most 1000 tokens · at most 4 min by a trial of 8 tokens'
        """
        longest = f"{share(None, self.answers, 'answer')} of at most {self.longest} tokens"
        limit = duration(self.steps * seconds_per_step)
        trial = f"at most {limit} by a trial of {TRIAL_TOKENS} tokens"
        return joined(share(None, self.problems, "problem"), longest, trial)


def amount(benchmarks: Collection[Benchmark], max_rows: int, ranks: int = 1) -> Amount:
    """What these benchmarks ask of each of so many ranks.

    Args:
        benchmarks: with their rows.
        max_rows: answers of a batch.
        ranks: that share the rows evenly.
    """
    problems = answers = longest = batch = steps = 0
    for benchmark in benchmarks:
        n, new_tokens = benchmark.generation.n, benchmark.generation.max_new_tokens
        batches = eval_batches(benchmark, max_rows, world_size=ranks)  # of the busiest rank
        rows = [len(batch) for batch in batches]
        problems += sum(rows)
        answers += sum(rows) * n
        longest = max(longest, new_tokens)
        batch = max(batch, *(count * n for count in rows))
        steps += sum(most_turns([request.example for request in batch]) for batch in batches) * new_tokens
    return Amount(problems, answers, longest, batch, steps)


def seconds_per_step(policy: Policy, args: EvalArgs, benchmark: Benchmark, batch: int) -> float:
    """Seconds that a policy needs for the next token of a whole batch, by a trial.

    Args:
        policy: whole, not sharded.
        args: how the benchmarks are run.
        benchmark: whose decoding settings the trial takes.
        batch: answers.
    """
    settings = replace(sampling_args(benchmark.generation, args.settled_for(policy)), n=1)
    _trial(policy, settings, batch, tokens=1)
    one, all_ = (_trial(policy, settings, batch, tokens) for tokens in (1, TRIAL_TOKENS))
    return max(0.0, all_ - one) / (TRIAL_TOKENS - 1)


def _trial(policy: Policy, settings: SamplingArgs, batch: int, tokens: int) -> float:
    prompt = [policy.pad_id] * PROMPT_TOKENS
    start = time.perf_counter()
    with policy.answering():
        sample(
            policy.model,
            [prompt] * batch,
            replace(settings, max_new_tokens=tokens),
            eos_ids=[],
            pad_id=policy.pad_id,
            seed=0,
            processor=policy.processor,
        )
    return time.perf_counter() - start
