"""How long an evaluation can take."""

from dataclasses import replace

import pytest
import torch

from lit_uniopd.benchmarks.engine import EvalArgs
from lit_uniopd.benchmarks.length_estimate import Amount, amount, seconds_per_step
from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.registry import expand
from lit_uniopd.benchmarks.shards import eval_batches
from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.policy import Policy, PolicyArgs


@pytest.fixture
def benchmarks() -> list[Benchmark]:
    return [load_benchmark(spec, "fixture") for spec in expand(["aime24", "math500"])]


@pytest.mark.parametrize(("max_rows", "ranks"), [(64, 1), (2, 1), (2, 2), (1, 3)])
def test_the_amount_is_that_of_the_batches_of_the_busiest_rank(benchmarks, max_rows, ranks):
    expected = [eval_batches(b, max_rows, rank=0, world_size=ranks) for b in benchmarks]
    rows = [sum(map(len, batches)) for batches in expected]
    n = [b.generation.n for b in benchmarks]
    new = [b.generation.max_new_tokens for b in benchmarks]
    result = amount(benchmarks, max_rows, ranks)
    assert result == Amount(
        problems=sum(rows),
        answers=sum(r * k for r, k in zip(rows, n, strict=True)),
        longest=max(new),
        batch=max(len(batch) * k for batches, k in zip(expected, n, strict=True) for batch in batches),
        steps=sum(len(batches) * length for batches, length in zip(expected, new, strict=True)),
    )


def test_turns_of_a_conversation_are_written_one_after_the_other(benchmarks):
    single = benchmarks[0]
    rows = [replace(single.examples[0], turns=("a", "b", "c")), single.examples[1]]
    talking = replace(single, examples=rows)
    new = single.generation.max_new_tokens
    one_by_one, together = (amount([talking], max_rows=rows).steps for rows in (1, 2 * single.generation.n))
    assert (one_by_one, together) == ((3 + 1) * new, 3 * new)


def test_the_trial_writes_as_many_rows_as_a_batch_and_leaves_randomness_alone(model_dirs, benchmarks, monkeypatch):
    from lit_uniopd.benchmarks import length_estimate

    shapes, original = [], length_estimate.sample

    def counting(model, prompts, args, **options):
        answers = original(model, prompts, args, **options)
        shapes.append(tuple(answers.tokens_BT.shape))
        return answers

    monkeypatch.setattr(length_estimate, "sample", counting)
    policy = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False, flag="model.policy")
    before = torch.get_rng_state()
    assert seconds_per_step(policy, EvalArgs(), benchmarks[0], batch=5) >= 0
    assert shapes == [(5, 1), (5, 1), (5, 8)]
    assert torch.equal(torch.get_rng_state(), before)
