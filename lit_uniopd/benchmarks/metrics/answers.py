"""Scores over the answers to each row: means, pass@k, majority."""

from collections import Counter
from collections.abc import Sequence
from math import comb

from torch import Tensor

from lit_uniopd.benchmarks.metrics.statistic import Statistic, by_row, ratio
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.errors import UserError


class RowMean(Statistic):
    """Mean over rows of one number per row."""

    size = 2
    label: str

    def row(self, answers: Sequence[Record]) -> float:
        """The row's number."""
        raise NotImplementedError

    def stats(self, group: Sequence[Record]) -> list[float]:
        rows = by_row(group)
        return [sum(self.row(answers) for answers in rows), float(len(rows))]

    def scores(self, sums: Tensor) -> dict[str, Tensor]:
        return {self.label: ratio(sums[..., 0], sums[..., 1])}


class Avg(RowMean):
    """Share of right answers, averaged over rows: avg@n, which papers also call pass@1."""

    def __init__(self, n: int) -> None:
        self.label = "accuracy" if n == 1 else f"avg@{n}"

    def row(self, answers: Sequence[Record]) -> float:
        return sum(bool(answer.correct) for answer in answers) / len(answers)


class PassAt(RowMean):
    """pass@k: the unbiased estimate ``1 - C(n-c, k) / C(n, k)`` of Chen et al. (2021), averaged over rows.

    Raises:
        UserError: if there are fewer than k answers to a row.
    """

    def __init__(self, n: int, k: int) -> None:
        if not 1 <= k <= n:
            raise UserError(
                f"report.metrics: pass_at with k {k} is not defined for {n} answer(s); give k from 1 to {n}."
            )
        self.k = k
        self.label = f"pass@{k}"

    def row(self, answers: Sequence[Record]) -> float:
        n, right = len(answers), sum(bool(answer.correct) for answer in answers)
        k = min(self.k, n)  # a killed run may have fewer answers yet
        return 1 - comb(n - right, k) / comb(n, k)


class Majority(RowMean):
    """Share of rows whose most frequent answer is right. Missing answers do not vote; the earliest wins a tie."""

    def __init__(self, n: int) -> None:
        self.label = f"maj@{n}"

    def row(self, answers: Sequence[Record]) -> float:
        votes = Counter(answer.extracted for answer in answers if answer.extracted is not None)
        if not votes:
            return 0.0
        winner = max(votes, key=lambda text: votes[text])  # the first of equals: Counter keeps insertion order
        return float(any(answer.correct for answer in answers if answer.extracted == winner))


class MeanScore(RowMean):
    """Mean of the grader's marks: relaxed accuracy, ANLS, soft accuracy."""

    def __init__(self, n: int, label: str) -> None:
        self.label = label

    def row(self, answers: Sequence[Record]) -> float:
        return sum(answer.score for answer in answers) / len(answers)


class Also(RowMean):
    """Mean of the marks of a further grader."""

    def __init__(self, n: int, grader: str, label: str) -> None:
        self.grader = grader
        self.label = label

    def row(self, answers: Sequence[Record]) -> float:
        return sum(answer.also.get(self.grader, 0.0) for answer in answers) / len(answers)


class IFEval(Statistic):
    """Share of prompts and of instructions that are followed, strictly and loosely.

    ``extracted`` holds a flag per instruction, strict ones before the bar: ``1101|1111``.
    """

    size = 6

    def __init__(self, n: int) -> None:
        del n

    def stats(self, group: Sequence[Record]) -> list[float]:
        sums = [0.0] * self.size
        for record in group:
            strict, _, loose = (record.extracted or "").partition("|")
            count = max(len(strict), len(loose), 1)
            for i, flags in enumerate((strict, loose)):
                sums[i] += float(bool(flags) and set(flags) == {"1"})
                sums[2 + i] += flags.count("1")
            sums[4] += 1
            sums[5] += len(strict) or _instructions(record) or count
        return sums

    def scores(self, sums: Tensor) -> dict[str, Tensor]:
        prompts, instructions = sums[..., 4], sums[..., 5]
        return {
            "prompt_strict": ratio(sums[..., 0], prompts),
            "prompt_loose": ratio(sums[..., 1], prompts),
            "instruction_strict": ratio(sums[..., 2], instructions),
            "instruction_loose": ratio(sums[..., 3], instructions),
        }


def _instructions(record: Record) -> int:
    """Number of instructions, for an answer that could not be judged."""
    gold = record.gold if isinstance(record.gold, dict) else {}
    return len(gold.get("instruction_id_list", ()))
