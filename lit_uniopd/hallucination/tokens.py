"""Words and stops of a text, as CHAIR's tokenizer splits them, and as a careful reader would."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Reading = Literal["chair", "robust"]
"""How a text is read. ``chair``: as Rohrbach et al. do, every word by itself. ``robust``: what is denied or asked for
is not mentioned, nor what a verb, an adjective or the first half of a compound only looks like."""

_APOSTROPHES = "'\u2019\u02bc\uff07"
_WORD = rf"[^\W_]+|(?<=[^\W_])[{_APOSTROPHES}][^\W_]+"
_PATTERNS = {
    # NLTK's word tokenizer splits off 's, and leaves words together that a hyphen or a slash joins.
    "chair": re.compile(rf"[^\W_]+(?:[-/][^\W_]+)+|{_WORD}|\S"),
    # An empty line, and one before a bullet, end a phrase as a full stop does.
    "robust": re.compile(rf"\d+(?:[.,]\d+)+|{_WORD}|\n\s*(?=\n|[-*\u2022]|\d+[.)])|\S"),
}
_HYPHENS = "-\u2010\u2011"
SENTENCE_ENDS = frozenset(".!?\u2026\u3002\uff1f\uff01")


def word_set(text: str) -> frozenset[str]:
    """The words of a list that is written as a text."""
    return frozenset(text.split())


class Token(NamedTuple):
    """A word in small letters, with a straight apostrophe in front if it stands behind one; or a stop."""

    text: str
    start: int
    """Index of its first character."""
    joined: bool = False
    """Whether a hyphen joins it to the word before."""

    @property
    def is_word(self) -> bool:
        return self.text[-1].isalnum()

    @property
    def ends_sentence(self) -> bool:
        return self.text in SENTENCE_ENDS or self.text.isspace()


def tokens_of(text: str, reading: Reading = "robust") -> list[Token]:
    """Tokens of a text; ``robust`` splits words at hyphens and notes these."""
    tokens: list[Token] = []
    text = text.lower()
    for match in _PATTERNS[reading].finditer(text):
        word, start, end = match.group(), *match.span()
        if reading == "robust" and word in _HYPHENS and text[end : end + 1].isalnum() and text[:start][-1:].isalnum():
            continue
        joined = reading == "robust" and start > 1 and text[start - 1] in _HYPHENS and text[start - 2].isalnum()
        if word[0] in _APOSTROPHES and len(word) > 1:
            word = "'" + word[1:]
        tokens.append(Token(word, start, joined))
    return tokens


def normalised(phrase: str) -> str:
    """A phrase as its tokens are joined: ``bird's eye`` is ``bird 's eye``."""
    return " ".join(token.text for token in tokens_of(phrase, "robust"))


def sentences_of(tokens: Sequence[Token]) -> list[range]:
    """Places of the tokens of each sentence, with its stop."""
    sentences: list[range] = []
    start = 0
    for place, token in enumerate(tokens):
        last = place + 1 == len(tokens)
        if last or (token.ends_sentence and not tokens[place + 1].ends_sentence):
            sentences.append(range(start, place + 1))
            start = place + 1
    return sentences
