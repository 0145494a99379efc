"""Graders of captions: objects that are named but not in the picture (CHAIR, AMBER generative)."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import unknown
from lit_uniopd.rewards.text import strip_reasoning, strip_thinking

if TYPE_CHECKING:
    from lit_uniopd.hallucination.tokens import Reading


def grade_chair(
    gold: Any, prediction: str, row: Mapping[str, Any] | None = None, *, reading: "Reading" = "chair"
) -> Grade:
    """Compare the COCO objects that a caption names with those of the picture.

    Args:
        gold: classes of the picture; a list, or a mapping whose ``objects`` is one.
        prediction: The caption.
        row: Not used.
        reading: ``chair`` counts as published scores do; ``robust`` leaves out what the caption denies or asks for,
            and words that are a verb or an adjective in it.

    Returns:
        A grade that is correct if nothing is hallucinated; its score is the share of mentions that are right (1.0
        without mentions: nothing is wrong). ``extracted`` holds the counts that the metric sums, as JSON. An empty or
        cut caption is wrong and names nothing; its picture's objects count as missed.
    """
    from lit_uniopd.hallucination import chair_counts, chair_words

    objects = gold.get("objects") if isinstance(gold, Mapping) else gold
    if objects is None:
        return unknown("no_gold")
    caption = strip_reasoning(prediction) if reading == "robust" else strip_thinking(prediction)
    counts = chair_counts(chair_words(reading).mentions(caption or ""), objects)
    return _graded(caption, counts.mentions, counts.hallucinated, asdict(counts))


def grade_amber(gold: Any, prediction: str, row: Mapping[str, Any] | None = None) -> Grade:
    """Compare the nouns of a caption with AMBER's annotations.

    Args:
        gold: ``truth`` and ``hallu`` of the picture, ``association`` and ``safe_words`` of the benchmark; ``similar``:
            word -> words like it by their vectors, where they are used.
        prediction: The caption.
        row: Not used.

    Returns:
        As `grade_chair`.
    """
    from lit_uniopd.hallucination.amber import amber_counts, nouns_in

    if not gold:
        return unknown("no_gold")
    caption = strip_thinking(prediction)
    association, safe = gold["association"], gold["safe_words"]
    nouns, similar = nouns_in(caption or "", association, safe), gold.get("similar")
    counts = amber_counts(nouns, gold["truth"], gold["hallu"], association, safe, similar)
    return _graded(caption, counts.nouns, counts.hallucinated, asdict(counts))


def _graded(caption: str | None, mentions: int, hallucinated: int, counts: dict[str, int]) -> Grade:
    if caption is None or not caption.strip():
        return Grade(False, 0.0, json.dumps(counts), "truncated" if caption is None else "no_answer")
    right = hallucinated == 0
    score = 1.0 if right else 1 - hallucinated / mentions
    return Grade(right, score, json.dumps(counts), "ok" if right else "wrong")
