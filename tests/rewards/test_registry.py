"""Graders that run where they are called must not be stalled there."""

import signal

import pytest

from lit_uniopd.rewards import boxes, lmms_rules, qwen_math
from lit_uniopd.rewards.program import extract_program
from lit_uniopd.rewards.registry import INLINE

CHOICES = {"A": "12", "B": r"$\frac{1}{2}$", "C": "a dog", "D": "none"}
READERS = {
    f"{name} {options.get('extraction', '')}".strip(): (
        lambda text, name=name, gold=gold, options=options: INLINE[name](gold, text, None, **options)
    )
    for name, gold, more, modes in [
        ("choice", "A", {"choices": CHOICES}, ("protocol", "robust", "lmms_ai2d", "lmms_visulogic")),
        ("numeric", "7", {}, ("protocol", "robust")),
        ("exact", "x", {}, ("protocol", "robust")),
        ("anls", "x", {}, ("protocol", "robust")),
        ("vqa_soft", "x", {}, ("protocol", "robust")),
        ("yes_no", "yes", {}, ("protocol", "robust")),
        ("chartqa_relaxed", "7", {}, (None,)),
        ("chartqa_normalised", "7", {}, (None,)),
    ]
    for options in [{**more, **({"extraction": mode} if mode else {})} for mode in modes]
}
READERS |= {
    "lmms_reasoning": lambda text: lmms_rules.reasoning_letter(
        lmms_rules.reasoning_answer(lmms_rules.without_reasoning(text)) + text
    ),
    "qwen_math": lambda text: qwen_math.stated_answer(text) + qwen_math.stated_choice(text),
    "boxes": lambda text: boxes.marked_answer(text, tags=True),
    "declared": boxes.declared_answer,
    "program": lambda text: extract_program(text, "f"),
}
UNITS = [
    *" \n{}7,`*-", " \n", "7 ", r"\boxed{", r"\boxed{1}", "1,000,", "Answer:\n", "The answer is A. ", "\\", r"\frac{", "<think>",
    "</think>", "<thinking>", "<answer>", '{"answer": "', "A. x\nB. y\n", "3 or 5 ", "<|begin_of_box|>",
    "<|channel|>final<|message|>", "½", "so no ", "```\n",
]  # fmt: skip
CHARACTERS = 1 << 18
CPU_LIMIT_S = 60.0
"""For twice as many, which take a fraction of a second; quadratic time takes ten minutes at least."""


class TooLong(BaseException):
    """Nothing that a grader would catch."""


@pytest.fixture
def cpu_limit():
    """Ends a test by its own processor time, so that a busy machine does not."""

    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.thinned(5)
def test_hostile_text_is_read_in_linear_time(reader, cpu_limit):
    for unit in UNITS:
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
        text = unit * (CHARACTERS // len(unit))
        grade = READERS[reader](f"{text} \\boxed{{{text} 7 x")
        assert getattr(grade, "reason", "") != "error", unit
