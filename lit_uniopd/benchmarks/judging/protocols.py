"""What each judged benchmark asks, how its replies are read, and what its scores are."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from lit_uniopd.benchmarks.judging.judged_rows import JudgedRow, JudgedScores
from lit_uniopd.benchmarks.judging.judges import Letters, Reply
from lit_uniopd.benchmarks.judging.length_control import GamedBaselines, length_controlled
from lit_uniopd.benchmarks.judging.logistic import Array
from lit_uniopd.benchmarks.judging.own_prompts import total_points
from lit_uniopd.benchmarks.judging.resampling import draws, ends, known_mean, means, ratio
from lit_uniopd.benchmarks.judging.style_control import FEATURES, controlled_rate, style_differences
from lit_uniopd.benchmarks.judging.templates import Template
from lit_uniopd.benchmarks.judging.verdicts import (
    FIVE_STEPS,
    letter_share,
    read_label,
    read_letter,
    read_mark,
    read_objects,
    read_points,
)
from lit_uniopd.benchmarks.metrics.intervals import RESAMPLES
from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.chair import chair_counts
from lit_uniopd.hallucination.lexicon import chair_words

MODEL_FIRST, BASELINE_FIRST = "model_first", "baseline_first"
STRONG = 3.0
"""Games that a verdict of "much better" counts for."""
FEW_WORDS = 3
"""Of an answer that describes nothing."""
FITTED_RESAMPLES = 200
"""Draws where each needs a fit."""
OFFICIAL_LETTERS: Letters = ("m", "M")
"""By which AlpacaEval 2's own wording names the answers."""

Reading = tuple[float | None, float, str]
"""What the model has won (None: the reply cannot be read), the verdict's weight, and its label."""


class Protocol(ABC):
    """How one kind of benchmark is judged."""

    kind: str
    pairwise: bool
    needed: frozenset[str]
    """Fields that its wording must have."""
    may_show: frozenset[str] = frozenset()
    """Further fields that it may have."""
    instead: frozenset[str] = frozenset()
    """Fields of which one does in the place of all others."""
    max_tokens: int
    """Of a reply, where nothing else is said."""

    def letters(self, template: Template) -> Letters | None:
        """The two replies whose probabilities are asked for; None: a text is."""
        return None

    def check(self, rows: Sequence[JudgedRow]) -> None:
        """Refuse rows that could not be scored, before anything is asked.

        Raises:
            UserError: naming the option that does not fit them.
        """
        del rows  # most take any

    def skips(self, row: JudgedRow) -> bool:
        """Whether an answer is left out without asking."""
        return False

    @abstractmethod
    def read(self, reply: Reply, order: str, template: Template) -> Reading:
        """What a reply says."""

    @abstractmethod
    def score(self, rows: Sequence[JudgedRow]) -> JudgedScores:
        """Scores of all rows; those with a verdict that cannot be read are left out."""


class AlpacaEval(Protocol):
    """AlpacaEval 2: win rates against a baseline, as they are and at equal length.

    Args:
        verdict: logprobs: a preference is the probability of the model's letter among the two, as in AlpacaEval 2;
            text: the letter that the judge writes.
        gamed: data of the official length control.
    """

    kind = "alpaca_eval"
    pairwise = True
    needed = frozenset({"question", "answer_a", "answer_b"})
    max_tokens = 1

    def __init__(self, verdict: Literal["logprobs", "text"] = "logprobs", gamed: GamedBaselines | None = None) -> None:
        self.verdict, self.gamed = verdict, gamed
        self.max_tokens = 1 if verdict == "logprobs" else 16

    def check(self, rows: Sequence[JudgedRow]) -> None:
        if self.gamed is not None:
            self.gamed.difficulty_of([row.number for row in rows])

    def letters(self, template: Template) -> Letters | None:
        return (template.letters or OFFICIAL_LETTERS) if self.verdict == "logprobs" else None

    def read(self, reply: Reply, order: str, template: Template) -> Reading:
        letters = template.letters or OFFICIAL_LETTERS
        if self.verdict == "logprobs":
            share = letter_share(reply.letter_logps, letters)
        else:
            letter = read_letter(reply.text, letters)
            share = None if letter is None else float(letter == letters[0])
        return _for_model(share, order), 1.0, "" if share is None else f"{share:.4f}"

    def score(self, rows: Sequence[JudgedRow]) -> JudgedScores:
        preference_N = np.array([np.mean(row.values) if row.values else math.nan for row in rows])
        judged = ~np.isnan(preference_N)
        wins = np.where(preference_N[judged] > 0.5, 1.0, np.where(preference_N[judged] < 0.5, 0.0, 0.5))
        names = {"win_rate": preference_N[judged], "discrete_win_rate": wins}
        draws_RN = draws(rows, RESAMPLES)
        scores, interval = {}, {}
        lengths, others = (np.array([len(text) for text in side], float) for side in _sides(rows))
        numbers = [row.number for row in rows]
        controlled = length_controlled(
            preference_N, lengths, others, numbers, self.gamed, draws(rows, FITTED_RESAMPLES)
        )
        details: dict[str, Any] = {"mean_length": float(lengths.mean()), "baseline_length": float(others.mean())}
        if controlled is not None:
            name = "lc_win_rate" if self.gamed is not None else "lc_win_rate_minimal"
            scores[name], interval[name] = controlled.rate, ends(controlled.resampled_R)
            details |= {
                "lc_formula": controlled.formula,
                "lc_standard_error": controlled.standard_error,
                "lc_length_coefficient": controlled.length_coefficient,
            }
        for name, values in names.items():
            scores[name] = float(values.mean())
            interval[name] = ends(means(values, draws_RN[:, judged]))
        return JudgedScores(scores, interval, details=details)


class ArenaHard(Protocol):
    """Arena-Hard: five-step verdicts in both orders, of which a clear one counts three times.

    Args:
        style_control: also give the rate at the baseline's style.
    """

    kind = "arena_hard"
    pairwise = True
    needed = frozenset({"question", "answer_a", "answer_b"})
    max_tokens = 4096

    def __init__(self, style_control: bool = False) -> None:
        self.style_control = style_control

    def read(self, reply: Reply, order: str, template: Template) -> Reading:
        label = read_label(reply.text)
        if label is None:
            return None, 1.0, ""
        return _for_model(FIVE_STEPS[label], order), STRONG if ">>" in label else 1.0, label

    def score(self, rows: Sequence[JudgedRow]) -> JudgedScores:
        rows = [row for row in rows if row.values]
        won, weight, row_of = _games(rows)
        won_N, weight_N = (np.bincount(row_of, values, len(rows)) for values in (won * weight, weight))
        draws_RN = draws(rows, RESAMPLES)
        scores = {"win_rate": float(won_N.sum() / weight_N.sum())}
        interval = {"win_rate": ends((draws_RN @ won_N) / (draws_RN @ weight_N))}
        details: dict[str, Any] = {}
        if self.style_control:
            style = style_differences(*_sides(rows))[row_of]
            scores["style_controlled_win_rate"], coefficients = controlled_rate(won, weight, style)
            drawn = [controlled_rate(won, weight * d[row_of], style)[0] for d in draws(rows, FITTED_RESAMPLES)]
            interval["style_controlled_win_rate"] = ends(np.array(drawn))
            details["style_coefficients"] = dict(zip(FEATURES, coefficients.tolist(), strict=True))
        return JudgedScores(scores, interval, details=details)


class MMVet(Protocol):
    """MM-Vet: how right an answer is, from 0 to 1, on average and by capability."""

    kind = "mm_vet"
    pairwise = False
    needed = frozenset({"question", "answer", "reference"})
    max_tokens = 16

    def read(self, reply: Reply, order: str, template: Template) -> Reading:
        mark = read_mark(reply.text)
        return mark, 1.0, "" if mark is None else f"{mark:g}"

    def score(self, rows: Sequence[JudgedRow]) -> JudgedScores:
        rows = [row for row in rows if row.values]
        marks = np.array([np.mean(row.values) for row in rows], np.float64)
        kinds = sorted({kind for row in rows for kind in row.kinds})
        shares = {
            kind: float(np.mean([m for m, r in zip(marks, rows, strict=True) if kind in r.kinds])) for kind in kinds
        }
        interval = {"correctness": ends(means(marks, draws(rows, RESAMPLES)))}
        return JudgedScores({"correctness": float(marks.mean())}, interval, shares)


class ObjectHalBench(Protocol):
    """Object HalBench: which objects a description names, by the judge; which of them are there, by COCO's annotation.

    What the judge lists is looked up among CHAIR's words for the 80 classes, as in the official script, where another
    parser finds the nouns. Answers of three words or fewer name nothing there, and here.
    """

    kind = "object_halbench"
    pairwise = False
    needed = frozenset({"answer"})
    may_show = frozenset({"question"})
    max_tokens = 512

    def check(self, rows: Sequence[JudgedRow]) -> None:
        if unknown := sum(not row.objects for row in rows):
            raise UserError(
                f"--benchmark: {unknown} of {len(rows)} pictures have no list of their objects, which scores need; "
                "use object_halbench@rule_based, whose rows have them."
            )

    def read(self, reply: Reply, order: str, template: Template) -> Reading:
        names = read_objects(reply.text)
        return (None, 1.0, "") if names is None else (float(len(names)), 1.0, json.dumps(names, ensure_ascii=False))

    def score(self, rows: Sequence[JudgedRow]) -> JudgedScores:
        rows = [row for row in rows if row.values]
        counts = [chair_counts(self._mentions(row), row.objects) for row in rows]
        columns = [(c.hallucinated, c.mentions, c.hallucinated > 0, c.mentions > 0, 1, c.hit, c.truth) for c in counts]
        sums_RS = np.concatenate([np.ones((1, len(rows))), draws(rows, RESAMPLES)]) @ np.array(columns, np.float64)
        wrong, named, bad, naming, captions, hit, truth = sums_RS.T
        ratios = {
            "chair_s_refined": (bad, naming),
            "chair_i": (wrong, named),
            "chair_s": (bad, captions),
            "recall": (hit, truth),
        }
        scores, interval = {}, {}
        for name, (part, whole) in ratios.items():
            rates = np.where(whole > 0, part / np.maximum(whole, 1), 0.0)
            scores[name], interval[name] = float(rates[0]), ends(rates[1:])
        details = {"mean_words": float(np.mean([len(row.answer.split()) for row in rows]))}
        return JudgedScores(scores, interval, details=details)

    def _mentions(self, row: JudgedRow) -> list[tuple[str, str]]:
        """Words for objects of the 80 classes in what the judge has listed, each once."""
        if len(row.answer.split()) <= FEW_WORDS:
            return []
        listed = (name for verdict in row.verdicts for name in json.loads(verdict.label))
        return list(dict.fromkeys(mention for name in listed for mention in chair_words().mentions(name.lower())))


class SedarEval(Protocol):
    """SedarEval: 0 to 5 points by a rubric of the question's own, and the leaderboard's mean of categories.

    Reasoning, mathematics and code are one of six parts together, each other category is a part. As published, an empty
    answer is left out, which favours models that do not answer, and so is one whose points are below zero: the details
    count both.
    """

    kind = "sedareval"
    pairwise = False
    needed = frozenset({"question", "answer", "reference", "rubric"})
    instead = frozenset({"own_prompt"})
    max_tokens = 1024
    most = 5.0
    together = frozenset({"推理", "数学", "代码"})

    def skips(self, row: JudgedRow) -> bool:
        return not row.answer.strip() or None in row.filled_prompts

    def read(self, reply: Reply, order: str, template: Template) -> Reading:
        least = -self.most if order else 0.0  # one of several prompts may take points away
        points = read_points(reply.text, self.most, least)
        return (None, 1.0, "") if points is None else (points / self.most, 1.0, f"{points:g}")

    def score(self, rows: Sequence[JudgedRow]) -> JudgedScores:
        judged = [(row, self._mark(row)) for row in rows if row.values and not self.skips(row)]
        details = {
            "empty_answers": sum(self.skips(row) for row in rows),
            "below_zero": sum(mark < 0 for _, mark in judged),
        }
        rows = [row for row, mark in judged if mark >= 0]
        if not rows:
            return JudgedScores({}, details=details)
        marks_N = np.array([mark for _, mark in judged if mark >= 0], np.float64)
        categories = sorted({row.kinds[0] for row in rows})
        of_category_NC = np.array([[category == row.kinds[0] for category in categories] for row in rows], np.float64)
        draws_RN = np.concatenate([np.ones((1, len(rows))), draws(rows, RESAMPLES)])
        means_RC = ratio((draws_RN * marks_N) @ of_category_NC, draws_RN @ of_category_NC)
        together_C = np.array([category in self.together for category in categories])
        parts_RP = np.concatenate([known_mean(means_RC[:, together_C])[:, None], means_RC[:, ~together_C]], axis=1)
        overall_R, question_R = known_mean(parts_RP), draws_RN @ marks_N / draws_RN.sum(axis=1)
        return JudgedScores(
            {"overall": float(overall_R[0]), "question_mean": float(question_R[0])},
            {"overall": ends(overall_R[1:]), "question_mean": ends(question_R[1:])},
            dict(zip(categories, means_RC[0].tolist(), strict=True)),
            details,
        )

    def _mark(self, row: JudgedRow) -> float:
        """Points over the most there are: of the one verdict, or of those on all prompts of the row."""
        if len(row.values) == 1:
            return row.values[0]
        return total_points(row.own_prompts, [value * self.most for value in row.values], self.most) / self.most


PROTOCOLS: dict[str, Callable[..., Protocol]] = {
    p.kind: p for p in (AlpacaEval, ArenaHard, MMVet, ObjectHalBench, SedarEval)
}
"""``scoring.export`` of a benchmark -> how it is judged."""


def _for_model(first_won: float | None, order: str) -> float | None:
    """What the model has won of what the answer shown first has."""
    return first_won if first_won is None or order == MODEL_FIRST else 1 - first_won


def _games(rows: Sequence[JudgedRow]) -> tuple[Array, Array, Any]:
    """Of each verdict: what the model has won, its weight, and the number of its row."""
    games = [(row.values[k], row.verdicts[k].weight, i) for i, row in enumerate(rows) for k in range(len(row.verdicts))]
    won, weight, row_of = (np.array(column) for column in zip(*games, strict=True))
    return won, weight, row_of


def _sides(rows: Sequence[JudgedRow]) -> tuple[list[str], list[str]]:
    return [row.answer for row in rows], [row.other for row in rows]
