r"""The mathematics grader: the boxed answer, compared by our own rules and by math-verify.

Four modes of finding the answer and comparing it:

- ``protocol`` is that of G-OPD, the evaluation that Uni-OPD follows: the last ``\boxed`` of the response, cut at 300
  characters, boxed again and compared with the boxed gold answer by math-verify alone; no box is wrong. The whole
  response never reaches math-verify, which would also read boxes in the thinking and join several boxes to one
  number. Its tolerances stand: letters are units, words are products of letters, 15 digits are equality.
- ``boxed``, for rewards: a box in any form, several boxes of one sentence as one list, no box inside a program;
  compared by `lit_uniopd.rewards.math_equality`, which grants less to what is wrong and more to other notations.
- ``robust``: as ``boxed``, and where there is no box the answer that the response declares.
- ``qwen_math``: found by the rules of `lit_uniopd.rewards.qwen_math`, in the whole response, as the evaluation of
  Omni-DPO does; numbers are compared by its tolerance, all else as in ``boxed``.

In all of them a percentage equals both readings (50 % = 0.5 = 50), and decimals agree after rounding to ``digits``
places.
"""

from collections.abc import Mapping
from typing import Any, Literal

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.boxes import LONGEST_ANSWER, boxed_answer, declared_answer, final_gold, marked_answer
from lit_uniopd.rewards.choice import chosen_letters
from lit_uniopd.rewards.grade import check_extraction, gold_text, unknown, verdict
from lit_uniopd.rewards.magnitude import is_astronomic
from lit_uniopd.rewards.math_equality import INTEGER, THOUSANDS, clean, equal_answers, parsed
from lit_uniopd.rewards.qwen_math import LETTERS, same_number, stated_answer, stated_choice
from lit_uniopd.rewards.text import last_answer_tag, last_box, strip_reasoning, strip_thinking

_FORMS = (
    ("x^2 + 2x - 15", "(x-3)(x+5)"),
    (r"6te^{2t} + 6t^2e^{2t}", r"f'(t) = 6t\left(t+1\right)\exp(2t)"),
    (r"\frac{\sqrt{3}}{2} + \pi", r"\pi + \dfrac{1}{2}\sqrt[2]{3}"),
    (r"[-2, 3) \cup (5, \infty)", r"-2 \leq x < 3"),
    (r"\{3, 7\}", r"x_1 = 3, x_2 = 7"),
    ("(2, -3)", r"\left(2, 3\right)"),
    (r"\sin^2(x) + \log_{2}(y)", r"\cos(x) - \ln y"),
    (r"\binom{5}{2} \cdot 3! \times |y|", r"\sum_{k=1}^{n} k"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 5 \end{bmatrix}"),
    (r"y = 2x + 1", r"\text{odd}"),
)


def grade_math(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    max_chars: int = LONGEST_ANSWER,
    digits: int = 6,
    tags: bool = False,
    choices: Mapping[str, str] | None = None,
    extraction: Literal["protocol", "boxed", "robust", "qwen_math"] = "boxed",
) -> Grade:
    r"""Compare the last boxed answer with the gold answer.

    Hostile answers (9^9^9^9) run for hours: call it in a process that can be killed, as `GRADERS` and `GraderPool` do.

    Args:
        gold: Text or a number; of text that holds boxes (a written-out solution), the last box is the answer, with
            those that `and` or a comma join to it; of one in GSM8K's form, what stands behind ``####``.
        prediction: The response. Thinking blocks are ignored; an unclosed one is reason ``truncated``, no answer in a
            box (none, empty, never closed) is reason ``no_answer``, and both are wrong.
        row: Not used.
        max_chars: Boxed text beyond this length is cut before it is parsed.
        digits: Decimal places to which numbers are rounded before they are compared.
        tags: Read the last ``<answer>`` tag, if there is one: the last box in it, else all of it.
        choices: Letter -> option. The text of an option and its letter are the same answer.
        extraction: ``protocol``, ``boxed``, ``robust`` or ``qwen_math``; see the module.

    Raises:
        ValueError: if the gold answer cannot be read, or for another ``extraction``.
    """
    check_extraction(extraction, ("protocol", "boxed", "robust", "qwen_math"))
    expected = gold_text(gold)
    if expected is None:
        return unknown("no_gold")
    expected = final_gold(expected)
    if extraction == "qwen_math":
        return _by_qwen_math(expected, prediction, max_chars, digits)
    visible = strip_thinking(prediction) if extraction == "protocol" else strip_reasoning(prediction)
    if visible is None:
        return Grade(False, 0.0, reason="truncated")
    answer, expected = _answers(visible, expected, max_chars, tags, extraction)
    if not answer:
        return Grade(False, 0.0, reason="no_answer")
    if choices and (right := _by_choices(expected, answer, choices)) is not None:
        return verdict(right, answer)
    if answer != expected and is_astronomic(answer) and not is_astronomic(expected):
        return verdict(False, answer)  # sympy would compute it first
    if extraction == "protocol":
        return verdict(answer == expected or _equal_by_protocol(expected, answer, digits), answer)
    return verdict(equal_answers(clean(expected), clean(answer), digits), answer)


def check_math_verify() -> None:
    """Load math-verify and try percentages, which silently fail under any ANTLR runtime but 4.13.2.

    Raises:
        RuntimeError: if they are not understood, with the remedy.
    """
    for gold, answer in (("0.5", r"50\%"), ("50", r"50\%"), (r"50\%", "0.5"), (r"50\%", "50")):
        if not _equal_by_protocol(gold, answer, digits=6):
            raise RuntimeError(
                "math-verify cannot read percentages with the installed ANTLR runtime; "
                "install antlr4-python3-runtime==4.13.2."
            )


def warm_up() -> None:
    """Compare answers of every form once, so that the tables of the parser, which it makes as it reads, are there.

    Processes that are forked from this one inherit them; without them each reads its first polynomial in a second.
    """
    for gold, answer in _FORMS:
        for equal in (_equal_by_protocol, equal_answers):
            equal(gold, answer, 6)


def _answers(visible: str, gold: str, max_chars: int, tags: bool, extraction: str) -> tuple[str, str]:
    """The response's answer, ``""`` for none, and the gold one."""
    if extraction == "protocol":
        tagged = last_answer_tag(visible) if tags else None
        final = (last_box(visible) or "") if tagged is None else (last_box(tagged) or tagged)
        return _clean(final)[:max_chars], _clean(last_box(gold) or gold)[:max_chars]
    final = marked_answer(visible, tags=tags)
    if final is None and extraction == "robust":
        final = declared_answer(visible)
    return _clean(final or "")[:max_chars], _clean(boxed_answer(gold) or gold)[:max_chars]


def _by_qwen_math(gold: str, response: str, max_chars: int, digits: int) -> Grade:
    expected, answer = _clean(boxed_answer(gold) or gold), stated_answer(response)
    if expected in LETTERS:
        answer = answer if answer in LETTERS else stated_choice(response)
        return verdict(answer == expected, answer)
    if not answer:
        return Grade(False, 0.0, reason="no_answer")
    expected, answer = (clean(text[:max_chars]) for text in (expected, _clean(answer)))
    if (same := same_number(expected, answer)) is not None:
        return verdict(same, answer)
    if is_astronomic(answer) and not is_astronomic(expected):
        return verdict(False, answer)  # sympy would compute it first
    return verdict(equal_answers(expected, answer, digits), answer)


def _by_choices(expected: str, answer: str, choices: Mapping[str, str]) -> bool | None:
    """Compare options; None if either is not an option."""
    letters = "".join(choices)
    # A letter, or the whole text of an option; longer text may mention options without choosing one.
    chosen = [chosen_letters(text, letters, choices) if len(text) <= 80 else None for text in (expected, answer)]
    return chosen[0] == chosen[1] if all(letter is not None and len(letter) == 1 for letter in chosen) else None


def _clean(answer: str) -> str:
    answer = THOUSANDS.sub("", answer.strip())
    # A sentence's full stop inside the box; not the invisible delimiter of \right. and not an ellipsis.
    ends_sentence = answer.endswith(".") and not answer.endswith(("..", r"\right.", r"\left."))
    return answer[:-1].rstrip() if ends_sentence else answer


def _equal_by_protocol(expected: str, answer: str, digits: int) -> bool:
    if INTEGER.fullmatch(expected) and INTEGER.fullmatch(answer):  # most contest answers; 1.5 ms saved on each
        return int(expected) == int(answer)
    gold, target, verify = parsed(expected, answer, units=True)
    return verify(gold, target, float_rounding=digits, timeout_seconds=None, raise_on_error=True)
