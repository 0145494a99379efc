"""Short answers in words: where a response states one, and the grader that asks for the very words."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import check_extraction, gold_text, unknown, verdict
from lit_uniopd.rewards.notation import without_emphasis
from lit_uniopd.rewards.text import marked_answers, readable, strip_reasoning, strip_thinking, visible_answer

_QUOTES = "\"'“”‘’«»「」"
_STATED = re.compile(
    r"^[ \t>#*_-]{0,8}(?:(?:so|thus|therefore|hence)[ ,]{1,3})?(?:(?:the|my) )?(?:(?:final|short|correct) )?answer"
    r"(?: is\b|[*_]{0,3} ?[:：])[*_:\s]{0,6}(\S[^\n]{0,300})$"
    r"|^[ \t>#*_-]{0,8}(?:最终)?答案(?:是|为|[:：])[*_\s]{0,6}(\S[^\n]{0,300})$",
    re.IGNORECASE | re.MULTILINE,
)
"""A line that states the answer: ``**Final Answer:** Canberra``, ``The answer is Canberra.``"""


def grade_exact(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    extraction: Literal["protocol", "robust"] = "robust",
    ignore_case: bool = False,
) -> Grade:
    """Equality of texts, after normalisation.

    Args:
        gold: Text or a number.
        prediction: The response; thinking and outer blanks never count.
        row: Not used.
        extraction: ``protocol``: the whole response is the gold answer, letter by letter. ``robust``: the last answer
            tag, else a model's own box, else the last box, else the whole response is, after repeated blanks, quotes
            and markdown around it, one final full stop and the width of signs (``Ａ`` is ``A``) are taken off both
            sides.
        ignore_case: capital and small letters are the same.

    Raises:
        ValueError: for another ``extraction``.
    """
    check_extraction(extraction)
    expected = gold_text(gold)
    if expected is None:
        return unknown("no_gold")
    answer = strip_reasoning(prediction) if extraction == "robust" else strip_thinking(prediction)
    if answer is None:
        return Grade(False, 0.0, reason="truncated")
    answer, expected = answer.strip(), expected.strip()
    if extraction == "robust" and answer != expected:
        answer, expected = normalised_text(next(marked_answers(answer), answer)), normalised_text(expected)
    if not answer:
        return Grade(False, 0.0, reason="no_answer")
    equal = answer.casefold() == expected.casefold() if ignore_case else answer == expected
    return verdict(equal, answer)


def normalised_text(text: str) -> str:
    """A text without what surrounds it: blanks, quotes, markdown, one final full stop; NFKC signs, single blanks."""
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    for _ in range(3):
        text = without_emphasis(text).strip().strip(_QUOTES)
        text = text.strip() if text.endswith("..") else re.sub(r"\s*[.。।۔]$", "", text.strip())
    return " ".join(text.split())


def short_answer(prediction: str, extraction: Literal["protocol", "robust"]) -> str | None:
    """A response as graders of short answers compare it: whole, or (``robust``) what it states, without markdown.

    Returns:
        None if the response was cut before its answer.
    """
    if extraction == "protocol":
        return visible_answer(prediction)
    visible = strip_reasoning(prediction)
    return None if visible is None else normalised_text(stated_answer(visible))


def stated_answer(text: str) -> str:
    """What a response without reasoning states as its answer: a tag, a box, the last line that says so, else all."""
    marked = next(marked_answers(text), None)
    if marked is not None:
        return marked
    stated = None
    for stated in _STATED.finditer(readable(text)):  # noqa: B007  # the last one
        pass
    return text if stated is None else stated[1] or stated[2]
