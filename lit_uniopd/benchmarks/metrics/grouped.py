"""Scores over problems that have several rows: DynaMath's variants, We-Math's steps."""

from collections.abc import Sequence

from torch import Tensor

from lit_uniopd.benchmarks.metrics.statistic import Statistic, by_row, ratio
from lit_uniopd.benchmarks.records import Record


class GroupWorst(Statistic):
    """Mean over problems of the mean and of the worst of their rows (DynaMath's average and worst case)."""

    size = 3

    def __init__(self, n: int) -> None:
        del n

    def stats(self, group: Sequence[Record]) -> list[float]:
        rows = [sum(bool(answer.correct) for answer in answers) / len(answers) for answers in by_row(group)]
        return [sum(rows) / len(rows), min(rows), 1.0] if rows else [0.0] * 3

    def scores(self, sums: Tensor) -> dict[str, Tensor]:
        return {"average": ratio(sums[..., 0], sums[..., 2]), "worst": ratio(sums[..., 1], sums[..., 2])}


class WeMath(Statistic):
    """We-Math (arXiv 2407.01284): what a model does with a problem of several steps and with its steps alone.

    ====  ============================  =======================================================
    IK    insufficient knowledge        the problem is wrong, and a step is wrong
    IG    inadequate generalisation     the problem is wrong, though all steps are right
    CM    complete mastery              the problem is right, and all steps are
    RM    rote memorisation             the problem is right, but a step is wrong
    ====  ============================  =======================================================

    Loosely, a right problem with at least one right step counts as mastered. The score is ``CM + IG / 2`` over problems
    of several steps. A group is one problem; its rows carry ``key`` in their breakdown: ``2steps_1``, ``2steps_2``,
    ``2steps_multi``, ``3steps_1`` and so on.

    lmms-eval divides by 525, the number of problems of the whole set, and takes a problem that is not there for a
    mastered one; here it counts for nothing. On the whole set that is the same.
    """

    size = 8

    def __init__(self, n: int) -> None:
        del n

    def stats(self, group: Sequence[Record]) -> list[float]:
        sums = [float(sum(bool(record.correct) for record in group)), float(len(group))] + [0.0] * 6
        rows = [(answers[0].breakdown.get("key", ""), bool(answers[0].correct)) for answers in by_row(group)]
        problems_right = [right for key, right in rows if key.endswith("multi")]
        steps_right = [right for key, right in rows if not key.endswith("multi")]
        if not problems_right or not steps_right:
            return sums
        sums[2] = 1.0
        if not all(problems_right):
            sums[4 if all(steps_right) else 3] = 1.0
            return sums
        sums[5] = float(all(steps_right))
        sums[6] = float(any(steps_right))
        sums[7] = float(not all(steps_right))
        return sums

    def scores(self, sums: Tensor) -> dict[str, Tensor]:
        problems, generalisation = sums[..., 2], sums[..., 4]
        return {
            "accuracy": ratio(sums[..., 0], sums[..., 1]),
            "strict": ratio(sums[..., 5] + 0.5 * generalisation, problems),
            "loose": ratio(sums[..., 6] + 0.5 * generalisation, problems),
            "insufficient_knowledge": ratio(sums[..., 3], problems),
            "inadequate_generalisation": ratio(generalisation, problems),
            "complete_mastery_strict": ratio(sums[..., 5], problems),
            "complete_mastery_loose": ratio(sums[..., 6], problems),
            "rote_memorisation_strict": ratio(sums[..., 7], problems),
            "rote_memorisation_loose": ratio(sums[..., 5] + sums[..., 7] - sums[..., 6], problems),
        }
