"""Scores over yes-no questions: POPE, AMBER discriminative, HallusionBench."""

from collections.abc import Sequence

from torch import Tensor

from lit_uniopd.benchmarks.metrics.statistic import Statistic, ratio
from lit_uniopd.benchmarks.records import Record


class YesNo(Statistic):
    """Accuracy, precision, recall, F1 and the share of yes.

    An answer that is neither yes nor no is wrong; it is predicted as the negative class, as in POPE's own script.

    Args:
        n: answers to a row.
        positive: the class that precision and recall are of: POPE asks for ``yes``, AMBER for ``no``.
        primary: the score that stands for the benchmark.
    """

    size = 6

    def __init__(self, n: int, positive: str = "yes", primary: str = "accuracy") -> None:
        del n
        # YAML reads a bare yes or no as true or false.
        self.positive = {True: "yes", False: "no"}.get(positive, positive) if isinstance(positive, bool) else positive
        self.primary = primary

    def stats(self, group: Sequence[Record]) -> list[float]:
        sums = [0.0] * self.size
        for record in group:
            gold = is_yes(record.gold) if self.positive == "yes" else not is_yes(record.gold)
            predicted = record.extracted == self.positive
            sums[0 if gold and predicted else 1 if predicted else 2 if gold else 3] += 1
            sums[4] += record.extracted == "yes"
            sums[5] += bool(record.correct)
        return sums

    def scores(self, sums: Tensor) -> dict[str, Tensor]:
        true_positive, false_positive, false_negative = sums[..., 0], sums[..., 1], sums[..., 2]
        total = sums[..., :4].sum(dim=-1)
        scores = {
            "accuracy": ratio(sums[..., 5], total),
            "precision": ratio(true_positive, true_positive + false_positive),
            "recall": ratio(true_positive, true_positive + false_negative),
            "f1": ratio(2 * true_positive, 2 * true_positive + false_positive + false_negative),
            "yes_ratio": ratio(sums[..., 4], total),
        }
        return {self.primary: scores[self.primary], **scores}


def is_yes(gold: object) -> bool:
    """Whether a gold answer means yes, in the forms that data sets have."""
    return str(gold).strip().lower() in ("yes", "true", "1", "1.0")


class Hallusion(Statistic):
    """HallusionBench: accuracy over questions (aAcc), over figures (fAcc) and over question pairs (qAcc).

    A figure counts if all questions about it are right, a pair if the question is answered rightly with every picture.
    A group must hold whole figures and whole pairs; rows carry ``figure`` and ``question_pair`` in their breakdown.
    """

    size = 6

    def __init__(self, n: int) -> None:
        del n

    def stats(self, group: Sequence[Record]) -> list[float]:
        sums = [float(sum(bool(record.correct) for record in group)), float(len(group))]
        for field in ("question_pair", "figure"):
            all_right: dict[str, bool] = {}
            for record in group:
                name = record.breakdown.get(field, record.sample_id)
                all_right[name] = all_right.get(name, True) and bool(record.correct)
            sums += [float(sum(all_right.values())), float(len(all_right))]
        return sums

    def scores(self, sums: Tensor) -> dict[str, Tensor]:
        return {name: ratio(sums[..., 2 * i], sums[..., 2 * i + 1]) for i, name in enumerate(("aAcc", "qAcc", "fAcc"))}
