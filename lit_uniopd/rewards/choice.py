"""The grader of multiple-choice questions: one letter, or a set of letters."""

import unicodedata
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, Literal

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.choice_readers import alone, if_allowed, read
from lit_uniopd.rewards.grade import check_extraction, gold_text, unknown, verdict
from lit_uniopd.rewards.lmms_rules import (
    ai2d_answer,
    equal_but_for_punctuation,
    visulogic_letter,
    without_reasoning,
)
from lit_uniopd.rewards.text import marked_answers, readable, strip_reasoning

DEFAULT_LETTERS = ascii_uppercase[:10]
"""Which letters may be answers if the options are not given."""
_NO_ANSWER = Grade(False, 0.0, reason="no_answer")


def grade_choice(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    choices: Mapping[str, str] | Sequence[str] | None = None,
    extraction: Literal["protocol", "robust", "lmms_ai2d", "lmms_visulogic"] = "robust",
) -> Grade:
    """Compare the chosen letters with the gold ones, as sets.

    Args:
        gold: A letter (``B``, ``b``, ``(B)``), several (``A, C``, ``AC``, ``["A", "C"]``), or the text of an option.
        prediction: The response. An unclosed thinking block is reason ``truncated``; nothing that can be read as a
            choice is reason ``no_answer``; both are wrong.
        row: Not used.
        choices: Letter -> text of the options, or their texts in order. Letters beyond them are no answers.
        extraction: ``protocol``: the answer tag, the box, or the whole response is the letter or the text of the
            option, as prompts that ask for the letter directly are scored; ``robust``: also what prose announces,
            chooses or concludes. Neither ever guesses. ``lmms_ai2d`` and ``lmms_visulogic``: lmms-eval's rules for one
            letter, which know no options (`lit_uniopd.rewards.lmms_rules`).

    Returns:
        A grade whose ``extracted`` holds the letters in alphabetical order: ``B`` or ``AC``.

    Raises:
        ValueError: if the gold answer is neither letters nor an option, or for another ``extraction``.
    """
    check_extraction(extraction, ("protocol", "robust", "lmms_ai2d", "lmms_visulogic"))
    options = _options(choices)
    letters = "".join(options) if options else DEFAULT_LETTERS
    expected = _gold_letters(gold, options, letters)
    if expected is None:
        return unknown("no_gold")
    if extraction == "lmms_ai2d":
        answer = ai2d_answer(prediction)
        return verdict(equal_but_for_punctuation(expected, answer), answer) if answer else _NO_ANSWER
    if extraction == "lmms_visulogic":
        letter = visulogic_letter(without_reasoning(prediction))
        return verdict(letter == expected, letter) if letter else _NO_ANSWER
    visible = strip_reasoning(prediction)
    if visible is None:
        return Grade(False, 0.0, reason="truncated")
    chosen = chosen_letters(visible, letters, options, prose=extraction == "robust")
    return verdict(chosen == expected, chosen) if chosen else _NO_ANSWER


def chosen_letters(
    response: str, letters: str, options: Mapping[str, str] | None = None, *, prose: bool = True
) -> str | None:
    """The letters that a response chooses, in alphabetical order.

    Args:
        response: Without thinking.
        letters: Those that may be chosen.
        options: Letter -> text.
        prose: Also read what whole sentences choose.

    Returns:
        None if it chooses nothing, or hedges.
    """
    options = options or {}
    # Not the normalised text: NFKC writes x² as x2.
    for piece in marked_answers(response):
        chosen = read(readable(piece), letters, options) if prose else alone(piece, letters, options)
        if chosen is not None:
            return chosen or None
    exact = alone(response, letters, options)
    if exact is not None or not prose:
        return exact or None
    return read(unicodedata.normalize("NFKC", readable(response)), letters, options) or None


def _options(choices: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    if not choices:
        return {}
    if isinstance(choices, Mapping):
        return {str(letter).strip().upper(): str(text) for letter, text in choices.items()}
    return {letter: str(text) for letter, text in zip(ascii_uppercase, choices, strict=False)}


def _gold_letters(gold: Any, options: Mapping[str, str], letters: str) -> str | None:
    if isinstance(gold, list | tuple | set | frozenset):
        gold = ", ".join(sorted(str(letter).strip() for letter in gold))
    expected = gold_text(gold)
    if expected is None:
        return None
    same = [letter for letter, option in options.items() if option.strip() == expected.strip()]
    text = unicodedata.normalize("NFKC", expected)
    gold_letters = alone(text, letters, {}) or (
        if_allowed(text.strip().upper(), letters) if text.strip().isalpha() else None
    )
    if gold_letters:
        return gold_letters
    if len(same) == 1:
        return same[0]
    raise ValueError(f"the gold answer {expected[:40]!r} is neither a letter of {letters} nor the text of an option")
