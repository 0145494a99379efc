"""Sentences and words as NLTK divides a text, which is how the official checkers count them."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # half a second to import, and few instructions count sentences
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer


def sentences(text: str) -> list[str]:
    """Sentences of NLTK's English model, whatever the language: a line or a Chinese full stop ends none."""
    return _sentence_tokenizer().tokenize(text)


def tokens(text: str) -> list[str]:
    """Words, their clitics (``DO``, ``N'T``) and punctuation, sentence by sentence."""
    from nltk.tokenize import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    return [token for sentence in sentences(text) for token in tokenizer.tokenize(sentence)]


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores."""
    from nltk.tokenize import RegexpTokenizer

    return RegexpTokenizer(r"\w+").tokenize(text)


def punkt_parameters() -> "PunktParameters":
    """The tables of NLTK's English model; NLTK itself would download them."""
    import punkt
    from nltk.tokenize.punkt import PunktParameters

    english = punkt.load_model("english")
    parameters = PunktParameters()
    parameters.abbrev_types |= english.abbrev_types
    parameters.collocations |= english.collocations
    parameters.sent_starters |= english.sent_starters
    parameters.ortho_context.update(english.ortho_context)
    return parameters


@cache
def _sentence_tokenizer() -> "PunktSentenceTokenizer":
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer(punkt_parameters())
