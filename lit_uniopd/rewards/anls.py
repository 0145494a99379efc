"""Average normalised Levenshtein similarity, the score of DocVQA and InfoVQA."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.exact import normalised_text, short_answer
from lit_uniopd.rewards.grade import check_extraction, gold_text, unknown


def grade_anls(
    golds: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    threshold: float = 0.5,
    extraction: Literal["protocol", "robust"] = "protocol",
) -> Grade:
    """Similarity to the best of the gold answers.

    Args:
        golds: A text or number, or several; missing ones are left out. Blank texts are too, but to a blank answer
            they are the same, as on the official server.
        prediction: The response. Thinking and outer blanks are taken off first.
        row: Not used.
        threshold: Similarities below it count as 0, in (0, 1]. An answer is correct if it reaches it.
        extraction: ``protocol``: the official score of the whole response. ``robust``: that of what the response
            states as its answer, without quotes, markdown and a final full stop, and 0 where its digits are not those
            of the gold answer: similar letters may be a slip of reading, another amount is another answer.

    Raises:
        ValueError: if ``threshold`` is not in (0, 1], or for another ``extraction``.
    """
    check_extraction(extraction)
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], not {threshold}")
    several = isinstance(golds, Sequence) and not isinstance(golds, str)
    expected = [text for gold in (golds if several else [golds]) if (text := gold_text(gold)) is not None]
    answer = short_answer(prediction, extraction)
    blank = any(isinstance(gold, str) and not gold.strip() for gold in (golds if several else [golds]))
    if blank and answer is not None and not answer.strip():
        return Grade(True, 1.0, answer, "ok")
    if not expected:
        return unknown("no_gold")
    if answer is None:
        return Grade(False, 0.0, reason="truncated")
    if not answer.strip():
        return Grade(False, 0.0, reason="no_answer")
    if extraction == "robust":
        digits = _digits(answer)
        expected = [text for gold in expected if _digits(text := normalised_text(gold)) == digits]
    score = anls_score(expected, answer, threshold)
    correct = score >= threshold
    return Grade(correct, score, answer, "ok" if correct else "wrong")


def anls_score(golds: Sequence[str], answer: str, threshold: float = 0.5) -> float:
    """The highest similarity of the answer to a gold answer, in [0, 1].

    The distance ignores case and repeated blanks, but the length that divides it counts blanks, as on the official
    server of both data sets.

    Args:
        golds: Gold answers.
        answer: The answer.
        threshold: Lower similarities are 0; one that equals it stays.
    """
    return max((_similarity(gold, answer, threshold) for gold in golds), default=0.0)


def _similarity(gold: str, answer: str, threshold: float) -> float:
    length = max(len(gold), len(answer))
    first, second = _normalised(gold), _normalised(answer)
    if length == 0:
        return 1.0  # nothing differs, by the official rule
    # The lengths alone differ by too much: hostile answers are long, gold answers are not.
    if 1 - abs(len(first) - len(second)) / length < threshold:
        return 0.0
    similarity = 1 - levenshtein(first, second) / length
    return similarity if similarity >= threshold else 0.0


def _digits(text: str) -> list[int]:
    return [digit for character in text if (digit := unicodedata.decimal(character, None)) is not None]


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())


def levenshtein(first: str, second: str) -> int:
    """The number of insertions, deletions and replacements of characters that turn one text into the other.

    Myers' bit-parallel algorithm (J. ACM 46, 1999) in Hyyrö's form, on integers as wide as the shorter text: a column
    of the table per step.
    """
    pattern, text = sorted((first, second), key=len)
    if not pattern:
        return len(text)
    positions: dict[str, int] = {}
    for index, character in enumerate(pattern):
        positions[character] = positions.get(character, 0) | 1 << index
    mask, last = (1 << len(pattern)) - 1, 1 << len(pattern) - 1
    # Bits of the current column's vertical differences: rises by one, falls by one.
    rises, falls, distance = mask, 0, len(pattern)
    for character in text:
        matches = positions.get(character, 0)
        diagonal = (((matches & rises) + rises) ^ rises) | matches | falls
        right_rises = falls | ~(diagonal | rises) & mask
        right_falls = rises & diagonal
        distance += bool(right_rises & last) - bool(right_falls & last)
        right_rises = (right_rises << 1 | 1) & mask
        right_falls = right_falls << 1 & mask
        rises = right_falls | ~(diagonal | right_rises) & mask
        falls = right_rises & diagonal & mask
    return distance
