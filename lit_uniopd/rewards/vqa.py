"""VQA soft accuracy, against the answers of ten people (TextVQA, VQAv2)."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.exact import short_answer
from lit_uniopd.rewards.grade import check_extraction, gold_text, unknown

_ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_DIGITS)}}
_PUNCTUATION = re.compile(r"[;/\[\]\"{}()=+\\_\-><@`?!]")
_COMMA = re.compile(r"(\d),(?=\d)")
_POINT = re.compile(r"(?<!\d)\.(?!\d)|\.(?!\d)")
_CONTRACTIONS = re.compile(
    r"\b(are|ca|could|did|do|does|had|has|have|is|might|must|need|should|was|were|wo|would)n ?t\b", re.I
)


def grade_vqa_soft(
    golds: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    extraction: Literal["protocol", "robust"] = "protocol",
) -> Grade:
    """Soft accuracy: the mean over annotators, each left out in turn, of ``min(agreeing others / 3, 1)``.

    Answers are compared after the normalisation of the VQA evaluation: lower case, without punctuation and articles,
    number words as digits.

    Args:
        golds: The people's answers; one text stands for ten equal ones.
        prediction: The response. If it holds thinking, that is taken off first.
        row: Not used.
        extraction: ``protocol``: the whole response is the answer; ``robust``: what it states as its answer, without
            quotes and markdown.

    Returns:
        A grade with the soft accuracy as its score; correct if that is at least 0.5.

    Raises:
        ValueError: for another ``extraction``.
    """
    check_extraction(extraction)
    listed = list(golds) if isinstance(golds, list | tuple) else [golds] * 10
    people = [normalised(text) for gold in listed if (text := gold_text(gold)) is not None]
    if not people:
        return unknown("no_gold")
    answer = short_answer(prediction, extraction)
    if answer is None:
        return Grade(False, 0.0, reason="truncated")
    if not answer.strip():
        return Grade(False, 0.0, reason="no_answer")
    normalised_answer = normalised(answer)
    matches = sum(person == normalised_answer for person in people)
    if len(people) == 1:
        score = float(matches)
    else:
        score = sum(min((matches - (person == normalised_answer)) / 3, 1.0) for person in people) / len(people)
    return Grade(score >= 0.5, score, normalised_answer, "ok" if score >= 0.5 else "wrong")


def normalised(text: str) -> str:
    """An answer in the form in which answers are compared."""
    text = " ".join(text.lower().split())
    text = _COMMA.sub(r"\1", text)
    text = _PUNCTUATION.sub(" ", text)
    text = _POINT.sub("", text).replace(",", " ").replace(":", " ").replace("'", "")
    text = _CONTRACTIONS.sub(lambda match: f"{match[1]}nt", text)
    return " ".join(_NUMBERS.get(word, word) for word in text.split() if word not in _ARTICLES)
