"""Where two answers differ, word by word."""

import re
from difflib import SequenceMatcher

Spans = list[list[int]]
"""[start, end) of each differing stretch, in UTF-16 code units, as JavaScript counts characters."""

MAX_WORDS = 1500
"""Of both texts together; longer ones are not compared, because the time grows with the square."""
TOO_DIFFERENT = 0.2
"""Texts that share less than this (difflib's ratio) are different throughout, and marking all of it helps nobody."""
_WORD = re.compile(r"\w+|[^\w\s]")


def differing_words(first: str, second: str) -> tuple[Spans, Spans] | None:
    """The words of each text that the other does not have in their place.

    Args:
        first: a text.
        second: another.

    Returns:
        Stretches of the first and of the second, none of either where they are equal or have too little in common;
        None: they are too long to be compared.

    Example:
        >>> differing_words("a red cat sits", "a cat sleeps")
        ([[2, 5], [10, 14]], [[6, 12]])
    """
    texts, words = (first, second), [list(_WORD.finditer(text)) for text in (first, second)]
    if sum(map(len, words)) > MAX_WORDS:
        return None
    matcher = SequenceMatcher(None, *([word[0] for word in text] for text in words), autojunk=False)
    if matcher.ratio() < TOO_DIFFERENT:
        return [], []
    spans: tuple[Spans, Spans] = ([], [])
    for kind, *(first_start, first_end, second_start, second_end) in matcher.get_opcodes():
        for i, (start, end) in enumerate(((first_start, first_end), (second_start, second_end))):
            if kind != "equal" and start < end:
                places = words[i][start].start(), words[i][end - 1].end()
                spans[i].append([_units(texts[i][:place]) for place in places])
    return spans


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", errors="surrogatepass")) // 2
