r"""What the evaluation of Qwen2.5-Math, from which that of Omni-DPO is made, takes for the answer of a response.

Read at github.com/pspdada/Uni-DPO dec07a3, in `Math/evaluation/scripts/eval_utils`. It guesses: without a box and
without "the answer is", the last number is the answer. That is for scores that are compared with its scores, not for
rewards.
"""

import re
from math import isclose

LETTERS = ("A", "B", "C", "D", "E")
"""Gold answers that are options."""

_NUMBER = re.compile(r"-?\d*\.?\d+")
_PHRASE = re.compile("choice is|answer is")
_LETTER = re.compile(r"\b[A-E]\b")
_RELATIVE = 1e-4
_LARGEST = 1e300
"""Beyond it a percentage may be no float."""


def stated_answer(response: str) -> str:
    r"""The answer, by the first of these that the response has.

    Minerva's closing sentence; the last ``boxed``; what follows the last "he answer is", the last "final answer is" or
    the first "答案是"; the last number.

    Args:
        response: all of it.

    Returns:
        On one line, without a colon before it and one full stop behind it; empty: there is none.

    Example:
        >>> stated_answer("First 3 + 4 = 7.\nThe answer is: 7.")
        ' 7'
        >>> stated_answer("so we get 1,234 apples")
        '1234'
    """
    if "final answer is $" in response and "$. I hope" in response:
        answer = response.partition("final answer is $")[2].partition("$. I hope")[0].strip()
    elif "boxed" in response:
        answer = _in_box(response.rpartition("boxed")[2])
    elif "he answer is" in response:
        answer = response.rpartition("he answer is")[2].strip()
    elif "final answer is" in response:
        answer = response.rpartition("final answer is")[2].strip()
    elif "答案是" in response:
        answer = response.split("答案是")[1].strip().split("\n\n")[0].strip()
    else:
        numbers = _NUMBER.findall(response.replace(",", ""))
        answer = numbers[-1] if numbers else ""
    return re.sub(r"\n\s*", "", answer).removeprefix(":").removesuffix(".").removesuffix("/")


def _in_box(rest: str) -> str:
    """What is in the braces that a text begins with, closed or not; without braces, what is before a dollar sign."""
    if not rest.startswith("{"):
        return rest.split("$")[0].strip()
    depth = 0
    for place, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:place]
    return rest[1:]


def stated_choice(response: str) -> str:
    """The option that a response whose `stated_answer` is none of `LETTERS` chooses, or what stands in its place.

    Behind "choice is" or "answer is" the first letter counts, elsewhere the last; a response that says either twice is
    read up to its first empty line.
    """
    text = response.strip("\n")
    if max(text.count("choice is"), text.count("answer is")) > 1:
        text = text.split("\n\n")[0]
    *before, text = _PHRASE.split(text)
    letters = _LETTER.findall(text.upper())
    return (letters[0] if before else letters[-1]) if letters else text.strip("\n .:/")


def same_number(expected: str, answer: str) -> bool | None:
    """Whether two numbers are the same, as they are or with one of them in percent; None: not both are numbers.

    Whole numbers have to be equal, others within a share of 1e-4.
    """
    gold, value = _number(expected), _number(answer)
    if gold is None or value is None:
        return None
    return any(
        value == reading if {type(value), type(reading)} == {int} else isclose(reading, value, rel_tol=_RELATIVE)
        for reading in (gold / 100, gold, gold * 100)
    )


def _number(text: str) -> int | float | None:
    try:
        value = float(text.replace(",", "").replace("\\%", "").replace("%", ""))
    except ValueError:
        return None
    if abs(value) > _LARGEST:
        return None
    return int(value) if value.is_integer() else value
