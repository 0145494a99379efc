"""From scored answers to preference pairs.

Answers to one prompt are never paired with an equal text, and never with an answer of the same score.
"""

import math
import random
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lit_uniopd.errors import UserError
from lit_uniopd.types import CORRECT, INCORRECT, UNKNOWN


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One answer, with its score and its outcome."""

    text: str
    score: float
    """NaN: the judge could not score it."""
    outcome: int = UNKNOWN
    """1 correct, 0 incorrect, -1 unknown."""
    finished: bool = True
    """False: it was cut at the token limit."""


@dataclass
class PairingArgs:
    """Which answers to a prompt become a pair."""

    strategy: Literal["extremes", "correctness", "positive"] = "extremes"
    """`extremes`: the best against the worst score, then the second best against the second worst, and so on.
    `correctness`: right answers, the best first, against wrong ones, the worst first. `positive`, as in the released
    code: right answers, the best first, against any right one that scores less by `min_margin`, or if there is none,
    any wrong one."""
    min_margin: float = 0.0
    """Least difference of the scores; pairs without any are never made. With `correctness` and scores that are the
    verdict itself, 0 to 1, leave it at 0."""
    min_chosen: float | None = None
    """Least score of a chosen answer. Default: any."""
    max_pairs: int = 1
    """Pairs of one prompt at most; an answer is in one pair only."""

    def __post_init__(self) -> None:
        if self.min_margin < 0:
            raise UserError(f"pairing.min_margin must not be negative, got {self.min_margin}.")
        if self.max_pairs < 1:
            raise UserError(f"pairing.max_pairs must be at least 1, got {self.max_pairs}.")


def pair_answers(
    answers: Sequence[ScoredAnswer], args: PairingArgs, left_out: Counter[str] | None = None
) -> list[tuple[ScoredAnswer, ScoredAnswer]]:
    """Pairs (chosen, rejected) of the answers to one prompt, the widest margin first.

    Args:
        answers: in any order; of equal scores the earlier one goes first.
        args: how to choose.
        left_out: counts why answers, or the prompt, gave no pair: ``unscored``, ``unfinished``, ``repeated`` and
            (but with `extremes`) ``unknown`` answers; prompts with ``no_contrast`` (all alike), a ``small_margin`` or a
            ``poor_best`` (below ``min_chosen``).
    """
    left_out = Counter() if left_out is None else left_out
    usable: dict[str, ScoredAnswer] = {}
    for answer in answers:
        if math.isnan(answer.score):
            left_out["unscored"] += 1
        elif not answer.finished:
            left_out["unfinished"] += 1
        elif args.strategy != "extremes" and answer.outcome == UNKNOWN:
            left_out["unknown"] += 1
        elif answer.text in usable:
            left_out["repeated"] += 1
        else:
            usable[answer.text] = answer
    ranked = sorted(usable.values(), key=lambda answer: -answer.score)
    pairs, candidates = [], list(_positive(ranked, args) if args.strategy == "positive" else _candidates(ranked, args))
    for chosen, rejected in candidates:
        margin = chosen.score - rejected.score
        if margin <= 0 or margin < args.min_margin:
            break
        if args.min_chosen is not None and chosen.score < args.min_chosen:
            break
        pairs.append((chosen, rejected))
        if len(pairs) == args.max_pairs:
            break
    if not pairs:
        left_out[_why_none(candidates, args)] += 1
    return pairs


def _candidates(ranked: list[ScoredAnswer], args: PairingArgs) -> Iterator[tuple[ScoredAnswer, ScoredAnswer]]:
    """Disjoint pairs of answers in falling order of score, the widest first."""
    if args.strategy == "extremes":
        better, worse = ranked[: len(ranked) // 2], ranked[::-1][: len(ranked) // 2]
    else:
        better = [answer for answer in ranked if answer.outcome == CORRECT]
        worse = [answer for answer in reversed(ranked) if answer.outcome == INCORRECT]
    return zip(better, worse, strict=False)


def _positive(ranked: list[ScoredAnswer], args: PairingArgs) -> Iterator[tuple[ScoredAnswer, ScoredAnswer]]:
    """Disjoint pairs of a right answer and one drawn from those that score enough less, right ones preferred."""
    rng = random.Random(repr([answer.text for answer in ranked]))  # the same answers give the same pairs
    available = list(ranked)
    for chosen in [answer for answer in ranked if answer.outcome == CORRECT]:
        if chosen not in available:  # the rejected answer of another pair
            continue
        available.remove(chosen)
        lower = [answer for answer in available if answer.score < chosen.score]
        eligible = [answer for answer in lower if chosen.score - answer.score >= args.min_margin] or lower
        pool = [answer for answer in eligible if answer.outcome == CORRECT] or eligible
        if not pool:
            return
        rejected = rng.choice(pool)
        available.remove(rejected)
        yield chosen, rejected


def _why_none(candidates: list[tuple[ScoredAnswer, ScoredAnswer]], args: PairingArgs) -> str:
    if not candidates or candidates[0][0].score <= candidates[0][1].score:
        return "no_contrast"
    return "small_margin" if candidates[0][0].score - candidates[0][1].score < args.min_margin else "poor_best"


def pairing_report(prompts: int, answers: int, rows: Sequence[Mapping[str, Any]], left_out: Counter[str]) -> dict:
    """Counts and scores of the pairs made of sampled answers.

    Args:
        prompts: how many were answered.
        answers: how many, to all of them.
        rows: the pairs, as rows of ``PreferenceDataModule``.
        left_out: as counted by `pair_answers`.
    """
    gaps = [row["score_chosen"] - row["score_rejected"] for row in rows]
    report: dict[str, Any] = {
        "prompts": prompts,
        "answers": answers,
        "pairs": len(rows),
        "pairs_of_domain": dict(Counter(row["domain"] for row in rows)),
        "left_out": dict(left_out.most_common()),
    }
    if rows:
        report |= {
            "score_gap": {"least": min(gaps), "mean": statistics.fmean(gaps), "greatest": max(gaps)},
            "score_chosen": statistics.fmean(row["score_chosen"] for row in rows),
            "score_rejected": statistics.fmean(row["score_rejected"] for row in rows),
            "longer_by_characters": statistics.fmean(len(row["chosen"]) - len(row["rejected"]) for row in rows),
            "chosen_correct": sum(row["correct_chosen"] == CORRECT for row in rows) / len(rows),
            "rejected_correct": sum(row["correct_rejected"] == CORRECT for row in rows) / len(rows),
        }
    return report
