"""Health of the answers: a drop in accuracy with rising truncation is a length problem."""

import statistics
from collections import Counter
from collections.abc import Sequence

from lit_uniopd.benchmarks.records import Record
from lit_uniopd.grade import KILLED

FAILED = ("error", "unsafe", *KILLED)


def health_of(records: Sequence[Record]) -> dict[str, float]:
    """Shares of answers that were cut, missing, unjudged or repetitive, and lengths in tokens.

    A grader that broke down on some of them is counted under its name, ``error/<grader>``.
    """
    if not records:
        return {}
    count = len(records)
    broken = Counter(name for record in records for name in record.failed_graders.split(",") if name)
    lengths = sorted(record.n_tokens for record in records)
    return {
        "truncated": sum(record.finish == "length" for record in records) / count,
        "no_answer": sum(record.reason in ("no_answer", "truncated") for record in records) / count,
        "error": sum(record.reason in FAILED for record in records) / count,
        **{f"error/{name}": number / count for name, number in sorted(broken.items())},
        "unknown": sum(record.correct is None for record in records) / count,
        "repetitive": sum(is_repetitive(record.response) for record in records) / count,
        "length_mean": statistics.fmean(lengths),
        "length_p95": float(lengths[min(count - 1, int(0.95 * count))]),
        "seconds": sum(record.seconds_generate for record in records),
    }


def is_repetitive(text: str, span: int = 40) -> bool:
    """Whether the end of a text is the same short piece over and over: a model that has fallen into a loop."""
    tail = text[-4 * span :]
    return len(tail) == 4 * span and any(
        tail == tail[-period:] * (len(tail) // period) + tail[-period:][: len(tail) % period]
        for period in range(1, span + 1)
    )
