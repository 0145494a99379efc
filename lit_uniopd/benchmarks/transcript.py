"""Conversations of several turns as one text."""

import re
from collections.abc import Sequence

_TURN = re.compile(r"[AQ]\d[:\uff1a](.*?)(?=\n[AQ]\d[:\uff1a]|$)", re.DOTALL)


def turns_of(text: str) -> list[str]:
    r"""The turns of a conversation that is written as one text; none if it is not written so.

    Example:
        >>> turns_of("Q1: Remember 7.\nQ2: Which number?")
        [' Remember 7.', ' Which number?']
    """
    return _TURN.findall(text)


def transcript(answers: Sequence[str]) -> str:
    r"""The answers of a conversation as one text.

    Example:
        >>> transcript(["Yes.", "7"])
        'A1: Yes.\nA2: 7\n'
    """
    return "".join(f"A{i}: {answer}\n" for i, answer in enumerate(answers, 1))
