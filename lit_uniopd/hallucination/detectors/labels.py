"""Free-text labels of boxes against the objects that were looked for."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from lit_uniopd.hallucination.detectors.base import Detections
from lit_uniopd.hallucination.verdicts import Box, Detection, Vote

LabelMatch = Literal["exact", "substring"]

_WORD = re.compile(r"[^\W_]+")


def labels_to_objects(
    objects: Sequence[str],
    labels: Sequence[str],
    scores: Sequence[float],
    match: LabelMatch = "exact",
    boxes: Sequence[Box] | None = None,
) -> Detections:
    """Detections of objects from a detector's free-text labels.

    Args:
        objects: what was looked for.
        labels: of the boxes.
        scores: of the boxes.
        match: ``exact``: the label has the object's words, whatever the tokenizer made of its hyphens, apostrophes,
            accents and capitals; a label that joins several of the objects ("dog cat") decides on none of them.
            ``substring``: the label contains the object's characters (released ``run/utils.py``).
        boxes: where they are; None: not known.
    """
    words = [_words(name) for name in objects]
    labels_words = [_words(label) for label in labels]
    detections: Detections = {}
    for name, name_words in zip(objects, words, strict=True):
        others = [other for other in words if other != name_words]
        votes: list[Vote] = [
            name.lower() in label.lower() if match == "substring" else _vote(name_words, label_words, others)
            for label, label_words in zip(labels, labels_words, strict=True)
        ]
        seen, undecided = (
            max(((scores[i], i) for i, vote in enumerate(votes) if vote is value), default=None)
            for value in (True, None)
        )
        if seen is not None:
            detections[name] = Detection(True, seen[0], None if boxes is None else boxes[seen[1]])
        elif undecided is not None:
            detections[name] = Detection(None, undecided[0])
        else:
            detections[name] = Detection(False, 0.0)
    return detections


def _words(text: str) -> tuple[str, ...]:
    """Words without accents and capitals; an uncased tokenizer strips both, and puts blanks around a hyphen.

    Its words of Chinese are single characters.
    """
    letters = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return tuple(piece for word in _WORD.findall(letters) for piece in (word if _is_chinese(word) else (word,)))


def _is_chinese(word: str) -> bool:
    return all("\u4e00" <= character <= "\u9fff" for character in word)


def _vote(name: Sequence[str], label: Sequence[str], others: Sequence[Sequence[str]]) -> Vote:
    """Whether a label's words show an object; None if the rest of them belongs to other objects."""
    if not name or name == label:
        return bool(name)
    if label in others:
        return False
    known_words = {word for other in others for word in other} | set(name)
    starts = range(len(label) - len(name) + 1)
    joins = any(label[i : i + len(name)] == name for i in starts) and known_words.issuperset(label)
    # The caption names each object once, so a word too many belongs to another object.
    return None if joins and others else False
