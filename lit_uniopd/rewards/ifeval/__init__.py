"""The grader of instruction following (IFEval)."""

from collections.abc import Mapping
from typing import Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import unknown
from lit_uniopd.rewards.ifeval.arguments import read_instructions
from lit_uniopd.rewards.ifeval.checks import follows
from lit_uniopd.rewards.text import strip_thinking


def grade_ifeval(gold: Any, prediction: str, row: Mapping[str, Any] | None = None) -> Grade:
    """Check every instruction of a prompt.

    Args:
        gold: ``instruction_id_list`` and ``kwargs``, the arguments of each instruction; null arguments do not count.
        prediction: The response; its thinking does not count, nor the blank lines behind that.
        row: Not used.

    Returns:
        A grade that is correct if all instructions are followed strictly; its score is the share of those that are.
        ``extracted`` holds a flag for each instruction, strict ones before a bar, loose ones behind it: ``101|111``.
        Loosely, one of eight readings of the response may follow: without its first line, its last line or both, and
        each without asterisks.

    Raises:
        ValueError: for an instruction without a check, or with arguments that it cannot have.
    """
    if not gold or not gold.get("instruction_id_list"):
        return unknown("no_gold")
    instructions = read_instructions(gold["instruction_id_list"], gold["kwargs"])
    visible = strip_thinking(prediction)
    if visible is None or not visible.strip():
        flags = "0" * len(instructions)
        return Grade(False, 0.0, f"{flags}|{flags}", "truncated" if visible is None else "no_answer")
    response = prediction if visible == prediction else visible.lstrip()
    readings = dict.fromkeys(loose_readings(response))  # those of one line are often the same
    strict = [follows(response, name, arguments) for name, arguments in instructions]
    loose = [any(follows(reading, name, arguments) for reading in readings) for name, arguments in instructions]
    flags = "|".join("".join(str(int(passed)) for passed in results) for results in (strict, loose))
    right = all(strict)
    return Grade(right, sum(strict) / len(strict), flags, "ok" if right else "wrong")


def loose_readings(response: str) -> list[str]:
    """The response as it is and seven other readings, which ignore an introduction, a closing line or emphasis."""
    lines = response.split("\n")
    shorter = ["\n".join(subset).strip() for subset in (lines[1:], lines[:-1], lines[1:-1])]
    plain = [response, *shorter]
    return [*plain, *(text.replace("*", "") for text in plain)]
