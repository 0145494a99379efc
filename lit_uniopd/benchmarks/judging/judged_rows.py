"""Answers with what judges said of them, and the scores that come of it."""

from dataclasses import dataclass, field
from typing import Any

from lit_uniopd.benchmarks.judging.own_prompts import OwnPrompt
from lit_uniopd.benchmarks.judging.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One answer with what is said of it."""

    sample_id: str
    sample_idx: int
    number: int
    """Of the row in its benchmark, from 0."""
    question: str
    answer: str
    other: str
    """The baseline's answer, or the right one."""
    kinds: tuple[str, ...] = ()
    """Category of the question, or capabilities that it asks for."""
    verdicts: tuple[Verdict, ...] = ()
    objects: tuple[str, ...] = ()
    """Classes of the picture, where they are annotated."""
    rubric: str = ""
    """What earns points, where each question has its own."""
    own_prompts: tuple[OwnPrompt, ...] = ()
    """What the judge is asked, where each question brings that."""
    filled_prompts: tuple[str | None, ...] = ()
    """These with the answer in them; None: what it should judge is empty."""

    @property
    def values(self) -> list[float]:
        """Of its verdicts; none if any of them cannot be read: the other order alone would favour a place."""
        values = [verdict.value for verdict in self.verdicts if verdict.value is not None]
        return values if len(values) == len(self.verdicts) else []


@dataclass(frozen=True, slots=True)
class JudgedScores:
    """Scores of a judged benchmark, in [0, 1]."""

    scores: dict[str, float]
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95 % bootstrap interval over questions."""
    breakdown: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
