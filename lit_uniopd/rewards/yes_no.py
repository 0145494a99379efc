"""Yes-no questions (POPE, AMBER discriminative, HallusionBench by rule)."""

import re
from collections.abc import Mapping
from typing import Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import gold_text, unknown, verdict
from lit_uniopd.rewards.text import last_answer_tag, last_box, strip_thinking

_WORD = re.compile(r"\b(yes|no|yeah|yep|nope)\b", re.I)
_NO = ("no", "nope")
_MEANING = {"yes": "yes", "true": "yes", "1": "yes", "1.0": "yes", "no": "no", "false": "no", "0": "no", "0.0": "no"}


def grade_yes_no(gold: Any, prediction: str, row: Mapping[str, Any] | None = None, *, exact: bool = False) -> Grade:
    """Compare a yes or no with the gold one.

    The first of the words yes and no decides, in the last answer tag if there is one, else in the last box, else in the
    response. If a later one contradicts it in the same sentence (``yes or no``), there is no answer. A response without
    either word that says ``not`` or ``n't`` in its first sentence means no, as POPE's own rule has it; any other has no
    answer.

    Args:
        gold: ``yes`` or ``no`` in any case, a truth value, 1 or 0.
        prediction: The response.
        row: Not used.
        exact: the whole response must be Yes, yes, No or no, as in AMBER's script; else there is no answer.

    Returns:
        A grade whose ``extracted`` is ``yes`` or ``no``.

    Raises:
        ValueError: if the gold answer means neither.
    """
    text = gold_text(gold)
    if text is None:
        return unknown("no_gold")
    expected = _MEANING.get(text.strip().strip(".").lower())
    if expected is None:
        raise ValueError(f"the gold answer {text[:40]!r} is neither yes nor no")
    visible = strip_thinking(prediction)
    if visible is None:
        return Grade(False, 0.0, reason="truncated")
    piece = last_answer_tag(visible) or last_box(visible) or visible
    decision = {"Yes": "yes", "yes": "yes", "No": "no", "no": "no"}.get(visible.strip()) if exact else _decision(piece)
    return Grade(False, 0.0, reason="no_answer") if decision is None else verdict(decision == expected, decision)


def _decision(text: str) -> str | None:
    plain = text.strip().strip(".!").lower()
    if plain in ("true", "false"):
        return _MEANING[plain]
    first = _WORD.search(text)
    if first is None:
        sentence = re.split(r"[.!?\n]", text.strip(), maxsplit=1)[0]
        return "no" if re.search(r"\bnot\b|n['’]t\b", sentence, re.I) else None
    meaning = _meaning(first)
    end = re.search(r"[.!?\n]", text[first.end() :])
    sentence = text[first.end() : first.end() + end.start()] if end else text[first.end() :]
    # "no" also counts things ("yes, there is no doubt"); only alternatives contradict.
    hedge = re.match(r"\s*(?:or|/|and)\s*(yes|no)\b", sentence, re.I)
    return None if hedge and _meaning(hedge) != meaning else meaning


def _meaning(match: re.Match[str]) -> str:
    return "no" if match[1].lower() in _NO else "yes"
