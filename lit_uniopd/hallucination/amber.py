"""AMBER's generative task (Wang et al. 2023): nouns of a caption against annotated objects, as its evaluator counts.

Nouns are words of the benchmark's vocabulary (its association file), in the singular; its safe words are never wrong.
The official script also forgives near-synonyms by word vectors: without `similar`, CHAIR here is an upper bound of its
CHAIR.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    similar: Mapping[str, Collection[str]] | None = None,
) -> AmberCounts:
    """Counts of one caption.

    Args:
        nouns: of `nouns_in`.
        truth: annotated objects.
        hallu: annotated likely hallucinations.
        association: object -> words that count as it.
        safe: words that are never wrong.
        similar: word -> words that are taken for the same by their vectors
            (`lit_uniopd.hallucination.word_vectors`); None: the association alone counts.
    """
    harmless, similar = set(safe), similar or {}
    right, likely = _meanings(truth, association), _meanings(hallu, association)
    covered: set[str] = set()
    targets: set[str] = set()
    hallucinated = 0
    for noun in nouns:
        if noun in harmless:
            continue
        if noun in right:
            covered.add(right[noun])
            continue
        alike = similar.get(noun, ())
        targets.update(likely[word] for word in (noun, _first(alike, likely)) if word in likely)
        if (synonym := _first(alike, right)) is None:
            hallucinated += 1
        else:
            covered.add(right[synonym])
    return AmberCounts(
        nouns=len(nouns),
        hallucinated=hallucinated,
        covered=len(covered),
        truth=len(truth),
        targets=len(targets),
        all_targets=len(hallu),
    )


def _first(alike: Collection[str], words: Mapping[str, str]) -> str | None:
    """The first of some words that is like a noun."""
    return next((word for word in words if word in alike), None)


def _meanings(objects: Sequence[str], association: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Word -> the annotated object that it means, in the order in which the evaluator looks; the first one counts."""
    meanings: dict[str, str] = {}
    for name in objects:
        for word in association.get(name, ()):
            meanings.setdefault(word, name)
    for name in objects:
        meanings.setdefault(name, name)
    return meanings
