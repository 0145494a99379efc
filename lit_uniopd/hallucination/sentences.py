"""Sentences of a caption: where they end, and which label follows from their objects."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from lit_uniopd.hallucination.verdicts import Verdict
from lit_uniopd.policy.chat_template import tokenizer_of

Label = Literal["factual_context_coherent", "factual_context_agnostic", "hallucinated", "uncertain", "no_object"]

_TERMINATORS = ".!?"
_CLOSERS = "\"'\u201d\u2019)]\xbb*"
_OPENERS = "\"'\u201c\u2018(["
_ABBREVIATIONS = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "no",
        "vs",
        "etc",
        "e.g",
        "i.e",
        "a.m",
        "p.m",
        "u.s",
        "u.k",
        "inc",
        "approx",
        "fig",
    ]
)
_END = re.compile(rf"[{_TERMINATORS}]+[{re.escape(_CLOSERS)}]*(?=\s|$)")


@dataclass(frozen=True, slots=True)
class LabelledSentence:
    """A candidate for the next sentence."""

    text: str
    label: Label
    objects: tuple[str, ...]
    hallucinated: tuple[str, ...] = ()
    """The objects that the picture does not have."""

    @property
    def factual(self) -> bool:
        return self.label in ("factual_context_coherent", "factual_context_agnostic")


def label_sentences(
    sentences: Sequence[str],
    objects: Sequence[Sequence[str]],
    verdict_on: Callable[[str], Verdict],
    context_objects: Collection[str],
    canonical: Callable[[str], str] = str,
) -> list[LabelledSentence]:
    """Label each candidate (SENTINEL, section 3.2; released ``run/generate_dataset.py``).

    Args:
        sentences: candidates for the next sentence.
        objects: for each candidate, the words that name objects.
        verdict_on: word -> verdict.
        context_objects: classes that the caption has named so far, whatever their verdict.
        canonical: word -> class.

    Returns:
        For each candidate: hallucinated if one object is; else uncertain if one is; else factual, and coherent with the
        context if that names one of its objects. Without objects: no_object.

    Raises:
        ValueError: if there are not as many lists of objects as sentences.
    """
    if len(sentences) != len(objects):
        raise ValueError(f"objects must have one entry per sentence, not {len(objects)} for {len(sentences)}")
    labelled: list[LabelledSentence] = []
    for text, words in zip(sentences, objects, strict=True):
        verdicts = {word: verdict_on(word) for word in words}
        wrong = tuple(word for word, verdict in verdicts.items() if verdict == "hallucinated")
        label: Label = "factual_context_agnostic"
        if not words:
            label = "no_object"
        elif wrong:
            label = "hallucinated"
        elif "uncertain" in verdicts.values():
            label = "uncertain"
        elif any(canonical(word) in context_objects for word in words):
            label = "factual_context_coherent"
        labelled.append(LabelledSentence(text, label, tuple(verdicts), wrong))
    return labelled


def unique_candidates(texts: Sequence[str]) -> list[str]:
    """Candidates that are not empty, each once, in the order in which they were sampled."""
    return [text for text in dict.fromkeys(texts) if text]


def should_stop(
    texts: Sequence[str],
    *,
    rule: Literal["empties", "empties_and_duplicates"] = "empties",
    share: float = 0.5,
) -> bool:
    """Whether the caption has ended: more than ``share`` of the candidates are empty.

    Args:
        texts: all candidates of a step; the model ended its answer where one is empty.
        rule: ``empties_and_duplicates`` also counts repetitions, as the released code does.
        share: of the candidates.

    Raises:
        ValueError: if there are no candidates.
    """
    if not texts:
        raise ValueError("texts must hold at least one candidate")
    empty = len(texts) - len(unique_candidates(texts)) if rule == "empties_and_duplicates" else list(texts).count("")
    return empty / len(texts) > share


def split_sentences(text: str) -> list[tuple[str, int]]:
    """Sentences of a text and where they start; the points of decimals and abbreviations end none."""
    ends = [0]
    for match in _END.finditer(text):
        if _is_abbreviated(text[ends[-1] : match.end()]):
            continue
        ends.append(match.end())
    pieces = [(text[start:end], start) for start, end in pairwise([*ends, len(text)])]
    return [(piece.strip(), start + len(piece) - len(piece.lstrip())) for piece, start in pieces if piece.strip()]


def is_unfinished(sentence: str) -> bool:
    """Whether a sentence was cut behind a number or an abbreviation (``about 3.``, ``Mr.``) or has no end at all."""
    bare = sentence.rstrip().rstrip(_CLOSERS)
    if not bare or bare[-1] not in _TERMINATORS:
        return True
    return bare.endswith(".") and (bare[-2:-1].isdigit() or _is_abbreviated(bare))


def _is_abbreviated(text: str) -> bool:
    """Whether the full stop at the end belongs to an abbreviation or an initial."""
    last = (text[:-1].split() or [""])[-1].lower().lstrip(_OPENERS)
    return text.endswith(".") and (last in _ABBREVIATIONS or (len(last) == 1 and last.isalpha() and last not in "ai"))


def sentence_end_ids(processor: Any) -> frozenset[int]:
    """Tokens that may end a sentence: their text ends, apart from space and closing quotes, in . ! or ?"""
    tokenizer: Any = tokenizer_of(processor)
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(len(tokenizer)) if i not in special]
    texts = tokenizer.batch_decode([[i] for i in ids])
    return frozenset(
        i for i, text in zip(ids, texts, strict=True) if text.strip().rstrip(_CLOSERS).endswith(tuple(_TERMINATORS))
    )
