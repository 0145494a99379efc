"""AMBER's generative task (Wang et al. 2023): nouns of a caption against annotated objects, as its evaluator counts.

Nouns are words of the benchmark's vocabulary (its association file), in the singular; its safe words are never wrong.
The official script also forgives near-synonyms by word vectors, so CHAIR here is an upper bound of its CHAIR.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lit_uniopd.hallucination.lexicon import noun_lemmas

_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class AmberCounts:
    """One caption's counts; sums of them make the scores."""

    nouns: int
    hallucinated: int
    """Nouns that are neither annotated, nor associated with something annotated, nor safe."""
    covered: int
    """Annotated objects that are named."""
    truth: int
    """Annotated objects."""
    targets: int
    """Annotated likely hallucinations that are named."""
    all_targets: int
    """Annotated likely hallucinations."""


def nouns_in(text: str, association: Mapping[str, Sequence[str]], safe: Iterable[str] = ()) -> list[str]:
    """Words of a text that are in the vocabulary, in order; a repeated word counts again."""
    vocabulary = set(association) | {word for words in association.values() for word in words} | set(safe)
    nouns = []
    for word in _WORD.findall(text.lower()):
        form = next((form for form in (word, *noun_lemmas(word)) if form in vocabulary), None)
        if form is not None:
            nouns.append(form)
    return nouns


def amber_counts(
    nouns: Sequence[str],
    truth: Sequence[str],
    hallu: Sequence[str],
    association: Mapping[str, Sequence[str]],
    safe: Iterable[str] = (),
) -> AmberCounts:
    """Counts of one caption.

    Args:
        nouns: of `nouns_in`.
        truth: annotated objects.
        hallu: annotated likely hallucinations.
        association: object -> words that count as it.
        safe: words that are never wrong.
    """
    harmless = set(safe)
    right = _with_associates(truth, association)
    likely = _with_associates(hallu, association)
    checked_nouns = [noun for noun in nouns if noun not in harmless]
    return AmberCounts(
        nouns=len(nouns),
        hallucinated=sum(noun not in right for noun in checked_nouns),
        covered=len({right[noun] for noun in checked_nouns if noun in right}),
        truth=len(truth),
        targets=len({likely[noun] for noun in checked_nouns if noun in likely and noun not in right}),
        all_targets=len(hallu),
    )


def _with_associates(objects: Sequence[str], association: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Word -> the annotated object that it means."""
    words = {word: name for name in objects for word in association.get(name, ())}
    return words | {name: name for name in objects}
