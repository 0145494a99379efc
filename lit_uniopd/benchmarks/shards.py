"""Which rank answers which rows of a benchmark, and in which batches."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from lit_uniopd.benchmarks.spec import Benchmark, Example

PICTURE_LENGTH = 2000
"""Characters that a picture counts for when rows are sorted by length."""


class Request:
    """One row of one benchmark, to be answered ``generation.n`` times."""

    __slots__ = ("benchmark", "example")

    def __init__(self, benchmark: Benchmark, example: Example) -> None:
        self.benchmark, self.example = benchmark, example


class EvalBatch:
    """Rows that are answered together; empty where a rank runs out of rows before the others.

    Like ``PromptBatch`` neither a dataclass nor a ``Sequence``, so that Lightning does not walk through it.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = tuple(requests)

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)


def eval_batches(benchmark: Benchmark, max_rows: int, *, rank: int = 0, world_size: int = 1) -> list[EvalBatch]:
    """The batches of one rank: over the ranks, each row exactly once, and all rows of a group on one rank.

    Long prompts come first, so that a batch needs little padding and the slowest work does not come last. All ranks
    get equally many batches; those that run out get empty ones.

    Args:
        benchmark: what is evaluated.
        max_rows: answers written at the same time.
        rank: this process.
        world_size: the number of processes.
    """
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in benchmark.examples:
        groups[example.group or example.id].append(example)
    ordered = sorted(groups.values(), key=lambda rows: (-max(_length(row) for row in rows), rows[0].id))
    rows_per_batch = max(1, max_rows // benchmark.generation.n)
    shards = [
        sorted((row for rows in ordered[r::world_size] for row in rows), key=_sort_key) for r in range(world_size)
    ]
    steps = -(-max(map(len, shards)) // rows_per_batch)
    requests = [Request(benchmark, example) for example in shards[rank]]
    return [EvalBatch(requests[i * rows_per_batch : (i + 1) * rows_per_batch]) for i in range(steps)]


def _sort_key(example: Example) -> tuple[int, str]:
    return -_length(example), example.id


def _length(example: Example) -> int:
    return sum(len(str(message["content"])) for message in example.chat) + PICTURE_LENGTH * len(example.images)
