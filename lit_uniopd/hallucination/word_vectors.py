"""Words that are alike by vectors of them, read from a text file of GloVe's or word2vec's form."""

import logging
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from lit_uniopd.errors import UserError

log = logging.getLogger(__name__)

_JOINT = re.compile(r"[ _-]+")

Vector = np.ndarray[Any, np.dtype[np.float64]]


def similar_words(path: Path, words: Collection[str], threshold: float = 0.8) -> dict[str, list[str]]:
    """Which of some words are alike: those whose vectors have a cosine above the threshold.

    A word that the file lacks is the sum of its parts between blanks and hyphens, and without any like no other. Where
    AMBER's evaluator says 0.8, its vectors are those of spaCy's `en_core_web_lg`; others say other things.

    Args:
        path: lines of a word and its numbers, perhaps below a line with their counts.
        words: to compare with each other; the vectors of all others are passed over.
        threshold: of the cosine.

    Returns:
        Word -> the words like it, itself included; words without a vector are missing.

    Raises:
        UserError: if the file cannot be read, or has none of the words.
    """
    parts = {word: [part for part in _JOINT.split(word) if part] for word in words}
    vectors = _read(path, {*words, *(part for each in parts.values() for part in each)})
    sums: dict[str, Vector] = {}
    for word in sorted(words):
        there = [vectors[part] for part in ([word] if word in vectors else parts[word]) if part in vectors]
        vector = np.sum(there, axis=0) if there else np.zeros(1)
        if np.linalg.norm(vector) > 0:
            sums[word] = vector / np.linalg.norm(vector)
    if not sums:
        raise UserError(
            f"{path} has a vector of none of the {len(words)} words that are compared; give vectors of English words "
            "in lower case, as text."
        )
    log.info("%s: %d of %d words have a vector; the others are like none.", path, len(sums), len(words))
    names = list(sums)
    cosine_WW = np.stack(list(sums.values())) @ np.stack(list(sums.values())).T
    return {name: [names[j] for j in np.flatnonzero(cosine_WW[i] > threshold)] for i, name in enumerate(names)}


def _read(path: Path, needed: Collection[str]) -> dict[str, Vector]:
    """Word -> vector, the first of each; lines of other words are not looked at."""
    starts = {word.partition(" ")[0] for word in needed}
    vectors: dict[str, Vector] = {}
    size = number = 0
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if size and line.partition(" ")[0] not in starts:
                    continue
                fields = line.split()
                if number == 1 and len(fields) == 2:  # word2vec: how many words, and numbers of each
                    continue
                size = size or len(fields) - 1
                word = " ".join(fields[:-size]) if 1 < size < len(fields) else ""
                if word in needed and word not in vectors:
                    vectors[word] = np.array(fields[-size:], np.float64)
                elif not word:
                    raise ValueError("too few numbers")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a text file of word vectors.") from error
    except ValueError as error:
        raise UserError(
            f"{path}: line {number} is no word with its numbers ({error}); give word vectors as text, or mend it."
        ) from error
    return vectors
