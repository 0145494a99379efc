r"""The mathematics grader: our own extraction of the boxed answer, compared by math-verify.

The rule is that of G-OPD, the evaluation that Uni-OPD follows: the last ``\boxed`` of the response, cut at 300
characters, boxed again and compared with the boxed gold answer; no box is wrong. The whole response never reaches
math-verify, which would also read boxes in the thinking and join several boxes to one number.

Tolerances of math-verify that are kept: a percentage equals both readings (50 % = 0.5 = 50), decimals agree after
rounding to ``digits`` places, ``{1, 2}`` equals the open interval (1, 2), words are compared as products of letters.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.choice import chosen_letters
from lit_uniopd.rewards.grade import gold_text, unknown, verdict
from lit_uniopd.rewards.magnitude import is_astronomic
from lit_uniopd.rewards.text import last_answer_tag, last_box, strip_thinking

_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,!;: ]|~|\{,\})(?=\d{3}(?!\d))")
"""Thin spaces and guarded commas inside a number."""
_INTEGER = re.compile(r"[+-]?[0-9]+")


def grade_math(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    max_chars: int = 300,
    digits: int = 6,
    tags: bool = False,
    choices: Mapping[str, str] | None = None,
) -> Grade:
    r"""Compare the last boxed answer with the gold answer.

    Hostile answers (9^9^9^9) run for hours: call it in a process that can be killed, as `GRADERS` and `GraderPool` do.

    Args:
        gold: Text or a number; of text that holds boxes (a written-out solution), the last box is the answer.
        prediction: The response. Thinking blocks are ignored; an unclosed one is reason ``truncated``, no answer in a
            box (none, empty, never closed) is reason ``no_answer``, and both are wrong.
        row: Not used.
        max_chars: Boxed text beyond this length is cut before it is parsed.
        digits: Decimal places to which numbers are rounded before they are compared.
        tags: Read the last ``<answer>`` tag, if there is one: the last box in it, else all of it.
        choices: Letter -> option. The text of an option and its letter are the same answer.
    """
    expected = gold_text(gold)
    if expected is None:
        return unknown("no_gold")
    visible = strip_thinking(prediction)
    if visible is None:
        return Grade(False, 0.0, reason="truncated")
    answer = _clean(_final(visible, tags))[:max_chars]
    if not answer:
        return Grade(False, 0.0, reason="no_answer")
    expected = _clean(last_box(expected) or expected)[:max_chars]
    if choices and (right := _by_choices(expected, answer, choices)) is not None:
        return verdict(right, answer)
    if answer != expected and is_astronomic(answer) and not is_astronomic(expected):
        return verdict(False, answer)  # sympy would compute it first
    return verdict(answer == expected or _equivalent(expected, answer, digits), answer)


def check_math_verify() -> None:
    """Load math-verify and try percentages, which silently fail under any ANTLR runtime but 4.13.2.

    Raises:
        RuntimeError: if they are not understood, with the remedy.
    """
    for gold, answer in (("0.5", r"50\%"), ("50", r"50\%"), (r"50\%", "0.5"), (r"50\%", "50")):
        if not _equivalent(gold, answer, digits=6):
            raise RuntimeError(
                "math-verify cannot read percentages with the installed ANTLR runtime; "
                "install antlr4-python3-runtime==4.13.2."
            )


def _final(visible: str, tags: bool) -> str:
    tagged = last_answer_tag(visible) if tags else None
    return (last_box(visible) or "") if tagged is None else (last_box(tagged) or tagged)


def _by_choices(expected: str, answer: str, choices: Mapping[str, str]) -> bool | None:
    """Compare options; None if either is not an option."""
    letters = "".join(choices)
    # A letter, or the whole text of an option; longer text may mention options without choosing one.
    chosen = [chosen_letters(text, letters, choices) if len(text) <= 80 else None for text in (expected, answer)]
    return chosen[0] == chosen[1] if all(letter is not None and len(letter) == 1 for letter in chosen) else None


def _clean(answer: str) -> str:
    answer = _THOUSANDS.sub("", answer.strip())
    # A sentence's full stop inside the box; not the invisible delimiter of \right. and not an ellipsis.
    ends_sentence = answer.endswith(".") and not answer.endswith(("..", r"\right.", r"\left."))
    return answer[:-1].rstrip() if ends_sentence else answer


def _equivalent(expected: str, answer: str, digits: int) -> bool:
    if _INTEGER.fullmatch(expected) and _INTEGER.fullmatch(answer):  # most contest answers; 1.5 ms saved on each
        return int(expected) == int(answer)
    parse, verify = _math_verify()
    gold, target = parse(expected), parse(answer)
    if not gold:
        raise ValueError(f"math-verify cannot read the gold answer {expected[:80]!r}")
    return verify(gold, target, float_rounding=digits, timeout_seconds=None, raise_on_error=True)


@functools.cache
def _math_verify() -> tuple[Any, Any]:
    # Half a second to import: only grading processes pay for it.
    from math_verify import LatexExtractionConfig, parse, verify

    # Not its default pair of extractors: the second takes the last number of what the LaTeX grammar rejects, so that
    # "203 \lor 204" would earn 204's reward. Its time limits need SIGALRM, which the worker uses itself; the parent
    # keeps time.
    latex = [LatexExtractionConfig(boxed_match_priority=0)]

    def parse_boxed(text: str) -> list[Any]:
        return parse(rf"\boxed{{{text}}}", extraction_config=latex, parsing_timeout=None, raise_on_error=True)  # type: ignore[arg-type]

    return parse_boxed, verify
