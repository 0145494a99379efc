"""Every row once, groups whole, all ranks in step."""

from collections import Counter

import pytest

from lit_uniopd.benchmarks.shards import eval_batches
from lit_uniopd.benchmarks.spec import Benchmark, BenchmarkSpec, Example, Generation, HubData, Report, Scoring


def benchmark(groups: list[int], n: int = 1) -> Benchmark:
    """One group of rows per number."""
    spec = BenchmarkSpec(
        id="b",
        protocol="p",
        version=1,
        title="b",
        domain="math",
        modality="text",
        hub=HubData(id="x/y"),
        scoring=Scoring(grader="exact"),
        report=Report(metrics=({"name": "avg"},)),
    )
    rows = [
        Example(id=f"{g}.{i}", group=str(g), gold="1", messages=({"role": "user", "content": "x" * (g % 5)},))
        for g, size in enumerate(groups)
        for i in range(size)
    ]
    return Benchmark(spec, "paper", Generation(n=n), rows, "f")


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("groups", "n", "max_rows"), [([1] * 7, 1, 2), ([3, 1, 2, 2, 5], 2, 6), ([1], 32, 8)])
def test_every_row_once_over_the_ranks_in_equal_steps(world_size, groups, n, max_rows):
    ranks = [eval_batches(benchmark(groups, n), max_rows, rank=r, world_size=world_size) for r in range(world_size)]
    row_counts = Counter(request.example.id for batches in ranks for batch in batches for request in batch)
    assert row_counts == Counter(f"{g}.{i}" for g, size in enumerate(groups) for i in range(size))
    assert len({len(batches) for batches in ranks}) == 1
    assert all(len(batch) * n <= max(max_rows, n) for batches in ranks for batch in batches)


def test_a_group_stays_on_one_rank():
    ranks = [eval_batches(benchmark([3, 1, 2, 2, 5]), 2, rank=r, world_size=2) for r in range(2)]
    groups = [{request.example.group for batch in batches for request in batch} for batches in ranks]
    assert not groups[0] & groups[1]


def test_long_prompts_come_first():
    (batches,) = [eval_batches(benchmark([1] * 10), 100)]
    lengths = [len(request.example.messages[0]["content"]) for request in batches[0]]
    assert lengths == sorted(lengths, reverse=True)
