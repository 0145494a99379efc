"""Two models on the same problems."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from lit_uniopd.benchmarks.heldout import recorded_spec
from lit_uniopd.benchmarks.metrics import build_metrics
from lit_uniopd.benchmarks.metrics.intervals import paired_difference
from lit_uniopd.benchmarks.metrics.scorecard import stats_of
from lit_uniopd.benchmarks.records import Record, by_benchmark, grouped
from lit_uniopd.errors import UserError

Answer = tuple[str, int]
"""Row and number of the answer."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on one benchmark; positive differences favour the second."""

    key: str
    score: str
    """Name of the score."""
    a: float
    b: float
    difference: float
    low: float
    high: float
    """Ends of the paired 95 % bootstrap interval over problems."""
    newly_right: tuple[Answer, ...]
    newly_wrong: tuple[Answer, ...]
    common: int
    """Answers that both have."""
    only_one: int
    """Answers that only one of them has; they are left out."""


def compare_records(a: Sequence[Record], b: Sequence[Record]) -> list[Comparison]:
    """Compare two models benchmark by benchmark, each on the answers that both have.

    Args:
        a: records of one evaluation.
        b: of another.

    Raises:
        UserError: if they have no benchmark in common, or one under different conditions.
    """
    benchmarks_a, benchmarks_b = (by_benchmark([r for r in records if r.grader]) for records in (a, b))
    common = [key for key in benchmarks_a if key in benchmarks_b]
    if not common:
        raise UserError(
            f"The two runs share no benchmark: one has {', '.join(benchmarks_a)}, the other {', '.join(benchmarks_b)}; "
            "give `uniopd compare` two runs that do."
        )
    return [_compare_benchmark(key, benchmarks_a[key], benchmarks_b[key]) for key in common]


def _compare_benchmark(key: str, a: Sequence[Record], b: Sequence[Record]) -> Comparison:
    for name in ("profile", "version", "fingerprint", "generation_hash"):
        values_a, values_b = {getattr(r, name) for r in a}, {getattr(r, name) for r in b}
        if values_a != values_b:
            raise UserError(
                f"{key} was run under another {name.replace('_', ' ')} in each run ({_join(values_a)} and "
                f"{_join(values_b)}); compare runs with the same rows, profile and decoding settings."
            )
    answers_a, answers_b = ({(r.sample_id, r.sample_idx): r for r in records} for records in (a, b))
    common = [answer for answer in answers_a if answer in answers_b]
    n = 1 + max(r.sample_idx for r in a)
    statistic = build_metrics(recorded_spec(a[0]).report.metrics, n, spec_n=10**9)[0]
    stats_a, stats_b = (
        stats_of(grouped([answers[answer] for answer in common]), statistic) for answers in (answers_a, answers_b)
    )
    scores_a, scores_b = statistic.scores(stats_a.sum(dim=0)), statistic.scores(stats_b.sum(dim=0))
    name = next(iter(scores_a))
    difference, low, high = paired_difference(stats_a, stats_b, statistic)[name]
    verdicts = {answer: (bool(answers_a[answer].correct), bool(answers_b[answer].correct)) for answer in common}
    return Comparison(
        key=key,
        score=name,
        a=float(scores_a[name]),
        b=float(scores_b[name]),
        difference=difference,
        low=low,
        high=high,
        newly_right=tuple(answer for answer, verdict in verdicts.items() if verdict == (False, True)),
        newly_wrong=tuple(answer for answer, verdict in verdicts.items() if verdict == (True, False)),
        common=len(common),
        only_one=len(answers_a.keys() ^ answers_b.keys()),
    )


def _join(values: set) -> str:
    return ", ".join(sorted(map(str, values)))


def comparison_table(comparisons: Sequence[Comparison], names: tuple[str, str]) -> Table:
    """One row per benchmark."""
    table = Table(title=f"{names[1]} against {names[0]}, on the answers that both have")
    for column in ("benchmark", "score"):
        table.add_column(column)
    for column in (
        "first",
        "second",
        "difference",
        "95 % interval",
        "newly right",
        "newly wrong",
        "answers",
        "left out",
    ):
        table.add_column(column, justify="right")
    for c in comparisons:
        interval = "-" if c.low != c.low else f"{c.low:+.1%} to {c.high:+.1%}"  # NaN: one problem has no interval
        table.add_row(
            c.key,
            c.score,
            f"{c.a:.1%}",
            f"{c.b:.1%}",
            f"{c.difference:+.1%}",
            interval,
            str(len(c.newly_right)),
            str(len(c.newly_wrong)),
            str(c.common),
            str(c.only_one),
        )
    return table
