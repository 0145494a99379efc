"""The grader of lmms-eval's reasoning tasks (0.7.3), without its judge: MathVision, DynaMath, We-Math, LogicVista."""

from collections.abc import Mapping
from typing import Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import gold_text, unknown, verdict
from lit_uniopd.rewards.lmms_rules import reasoning_answer, reasoning_letter, without_reasoning

_SHARE = 0.9
"""Of the longer text that the shorter one, which it contains, has to be."""


def grade_lmms_reasoning(gold: Any, prediction: str, row: Mapping[str, Any] | None = None) -> Grade:
    r"""Compare the answer in the first tag, the last box or at the end with the gold answer.

    A gold answer in which `lit_uniopd.rewards.lmms_rules.reasoning_letter` finds a letter (also ``Circle``, and of
    ``A, C`` the first one) needs the same letter, another one nearly the same text; else math-verify compares the two.
    A response that ends inside its thinking is read like any other, as lmms-eval does.

    Hostile answers (9^9^9^9) run for hours: call it in a process that can be killed, as `GRADERS` and `GraderPool` do.

    Args:
        gold: Text or a number.
        prediction: The response; one without an answer is wrong, with reason ``no_answer``.
        row: Not used.
    """
    expected = gold_text(gold)
    if expected is None:
        return unknown("no_gold")
    expected = expected.removesuffix(".").strip()
    answer = reasoning_answer(without_reasoning(prediction))
    if not answer:
        return Grade(False, 0.0, reason="no_answer")
    return verdict(_same_text(expected, answer) or _verified(expected, answer), answer)


def _same_text(expected: str, answer: str) -> bool:
    if letter := reasoning_letter(expected):
        return reasoning_letter(answer) == letter
    shorter, longer = sorted((expected, answer), key=len)
    return shorter in longer and len(shorter) >= _SHARE * len(longer)


def _verified(expected: str, answer: str) -> bool:
    # Half a second to import: only grading processes pay for it, and their parent keeps time.
    from math_verify import parse, verify

    golds, answers = (parse(text, parsing_timeout=None) for text in (expected, answer))  # type: ignore[arg-type]
    return bool(verify(golds, answers, timeout_seconds=None))
