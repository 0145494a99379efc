"""Telling numbers apart that nobody can compute, by their logarithms."""

import math
import re

MAX_DIGITS = 100_000
"""Whole numbers of more digits are not computed."""
_TOKEN = re.compile(r"\d+|\^|!|[(){}]|\S")
_PLAIN = (("**", "^"), ("\\left", ""), ("\\right", ""), ("\\{", "("), ("\\}", ")"), (r"\,", ""))
_LOG_LIMIT = MAX_DIGITS * math.log(10)


def is_astronomic(text: str) -> bool:
    """Whether a text holds a power or factorial of whole numbers with more than `MAX_DIGITS` digits.

    Evaluated, it would take all time and memory: ``10^{10^{10}}``, ``9^{9^{9^9}}``, ``(10^6)!``, ``9!!!``. Only what is
    written with whole numbers, powers, factorials and brackets counts; the rest of the text is passed over.
    """
    for written, plain in _PLAIN:
        text = text.replace(written, plain)
    tokens = _TOKEN.findall(text.replace(" ", ""))
    # From the right, as powers are read: the logarithm of the power that begins at each token, and where it ends.
    logs: list[float | None] = [None] * (len(tokens) + 1)
    ends = [0] * (len(tokens) + 1)
    for i in reversed(range(len(tokens))):
        log, end = _atom(tokens, i, logs, ends)
        if log is None:
            continue
        while end < len(tokens) and tokens[end] == "!":
            log, end = _factorial(log), end + 1
        if end + 1 < len(tokens) and tokens[end] == "^" and logs[end + 1] is not None:
            log, end = log * _exp(logs[end + 1] or 0.0), ends[end + 1]
        if log > _LOG_LIMIT:
            return True
        logs[i], ends[i] = log, end
    return False


def _atom(tokens: list[str], i: int, logs: list[float | None], ends: list[int]) -> tuple[float | None, int]:
    """The logarithm of the number or bracket at a place, and where it ends."""
    token = tokens[i]
    if token.isdecimal():
        if tokens[i - 1 : i] == ["."]:  # digits of a decimal fraction
            return None, i
        return (math.log(int(token)) if int(token[:300]) else -math.inf), i + 1
    if token in "({" and i + 1 < len(tokens) and logs[i + 1] is not None:
        end = ends[i + 1]
        if tokens[end : end + 1] == [")" if token == "(" else "}"]:
            return logs[i + 1], end + 1
    return None, i


def _exp(log: float) -> float:
    return math.exp(log) if log < 700 else math.inf


def _factorial(log: float) -> float:
    """The logarithm of n! of that of n."""
    return math.lgamma(_exp(log) + 1) if log < 600 else math.inf
