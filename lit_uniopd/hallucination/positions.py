"""Where in a caption objects are named, and where hallucinated ones (SENTINEL, figures 2 and 9)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lit_uniopd.hallucination.lexicon import Lexicon, chair_words
from lit_uniopd.hallucination.sentences import split_sentences


@dataclass(frozen=True, slots=True)
class PlacedMention:
    """A mention of an object."""

    relative: float
    """Characters before it by the caption's length, in [0, 1)."""
    sentence: int
    """From 0."""
    hallucinated: bool


def place_mentions(caption: str, truth: Iterable[str], lexicon: Lexicon | None = None) -> list[PlacedMention]:
    """The mentions of a caption in order; a repeated word counts again.

    Args:
        caption: a text.
        truth: classes of the picture.
        lexicon: of objects. None: CHAIR's own words for the 80 COCO classes.
    """
    classes = set(truth)
    starts = [start for _, start in split_sentences(caption)]
    return [
        PlacedMention(
            relative=mention.start / len(caption),
            sentence=sum(start <= mention.start for start in starts) - 1,
            hallucinated=mention.name not in classes,
        )
        for mention in (lexicon or chair_words()).find(caption)
    ]


def counts_by_sentence(mentions: Sequence[PlacedMention], last: int = 6) -> tuple[list[int], list[int]]:
    """Factual and hallucinated mentions in sentences 1, 2, ... ``last`` and later."""
    factual, wrong = [0] * last, [0] * last
    for mention in mentions:
        counts = wrong if mention.hallucinated else factual
        counts[min(mention.sentence, last - 1)] += 1
    return factual, wrong
