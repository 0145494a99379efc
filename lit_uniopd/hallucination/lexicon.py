"""Objects named in a text: a lexicon of words and phrases, matched longest first."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.denial import denied_places
from lit_uniopd.hallucination.senses import is_adjective, is_verb
from lit_uniopd.hallucination.tokens import Reading, Token, normalised, tokens_of
from lit_uniopd.utils.strict_yaml import read_yaml

_FOLDER = Path(__file__).parent
BUILT_IN = ("coco", "chair", "chair_robust", "released_code")
"""Names of lexicons: ours, CHAIR's, CHAIR's words read robustly, and SENTINEL's released generation pipeline's."""
_PART = 3
"""Least letters of each half of a word that is written apart: ``snow board``."""
_NUMERALS = frozenset(("one", "two", "three", "four", "five", "six", "eight", "ten", "half", "double", "non", "anti"))
_IRREGULAR = {"people": "person", "oxen": "ox"}
"""Plurals that lemminflect's dictionary does not have."""
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")


@dataclass(frozen=True, slots=True)
class Mention:
    """A word or phrase that names an object."""

    word: str
    """In the singular, as in the lexicon."""
    name: str
    """Its class."""
    start: int
    """Index of its first character."""


class Lexicon:
    """Words for objects.

    Args:
        classes: class -> words and phrases for it, in the singular; the class's own name is one of them.
        blockers: phrases in which a word does not mean its object (``train track``).
        absorbs: class -> words that mean no object of their own in a text that names the class (``toilet: [seat]``).
        means: phrase -> the shorter word that it is read as (``bow tie: tie``); no object if that word names none.
        verbs: words that are verbs too (``train``); one that is a verb in its sentence is no mention.
        adjectives: words that are adjectives too (``orange``), likewise.
        reading: ``robust``, or ``chair``, by which its published numbers count: words by themselves, denied or not.

    Raises:
        UserError: if a word stands for two classes, or there is no such reading.
    """

    def __init__(
        self,
        classes: Mapping[str, Sequence[str]],
        blockers: Sequence[str] = (),
        absorbs: Mapping[str, Sequence[str]] | None = None,
        means: Mapping[str, str] | None = None,
        verbs: Sequence[str] = (),
        adjectives: Sequence[str] = (),
        reading: Reading = "robust",
    ) -> None:
        if reading not in ("chair", "robust"):
            raise UserError(f"The lexicon file's `reading: {reading}` is unknown; write chair or robust.")
        self.classes = tuple(classes)
        self.verbs, self.adjectives = frozenset(verbs), frozenset(adjectives)
        self.reading: Reading = reading
        self.class_of: dict[str, str] = {}
        for name, words in classes.items():
            for word in (name, *words):
                if self.class_of.setdefault(word, name) != name:
                    raise UserError(f"The word {word!r} stands for {self.class_of[word]!r} and for {name!r}; keep one.")
        self.means = {normalised(phrase): word for phrase, word in (means or {}).items()}
        self.blockers = frozenset(map(normalised, blockers)) - set(self.class_of)
        self.absorbs = {name: frozenset(words) for name, words in (absorbs or {}).items()}
        self._longest = max(len(phrase.split()) for phrase in (*self.class_of, *self.blockers, *self.means))
        self._unspaced = {word.replace(" ", ""): word for word in reversed(list(self.class_of))}

    @classmethod
    def read(cls, path: str | Path) -> "Lexicon":
        """A lexicon by its name (`BUILT_IN`), or from a YAML file.

        The file has ``classes``, and may have ``blockers``, ``absorbs``, ``means``, ``verbs``, ``adjectives`` and
        ``reading``; with ``extends: coco`` or ``extends: chair`` it adds to that one, and is read as that one.

        Raises:
            UserError: if the file is not a lexicon.
        """
        if path == "released_code":
            return released_coco()
        if path == "chair_robust":
            return chair_words("robust")
        file = _FOLDER / f"{path}_objects.yaml" if path in BUILT_IN else Path(path)
        try:
            return cls(**_content(file))
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"{path} is no lexicon ({error!r}); name {', '.join(BUILT_IN)}, or a file like coco_objects.yaml."
            ) from error

    def find(self, text: str) -> list[Mention]:
        """Every mention of an object, in order; a repeated word counts again."""
        tokens = tokens_of(text, self.reading)
        robust = self.reading == "robust"
        denied = denied_places(tokens) if robust else set()
        mentions: list[Mention] = []
        position = 0
        while position < len(tokens):
            size, word = self._longest_match(tokens, position)
            end = position + size
            if word is not None and not (robust and (end - 1 in denied or self._is_other(tokens, position, end, word))):
                mentions.append(Mention(word, self.class_of[word], tokens[position].start))
            position = end
        classes = {mention.name for mention in mentions}
        absorbed = {word for name, words in self.absorbs.items() if name in classes for word in words}
        return [mention for mention in mentions if mention.word not in absorbed]

    def _longest_match(self, tokens: Sequence[Token], position: int) -> tuple[int, str | None]:
        """How many tokens the longest known phrase has here, and the word that it stands for, if it is an object."""
        for size in range(min(self._longest, len(tokens) - position), 0, -1):
            words = [token.text for token in tokens[position : position + size]]
            if not all(token.is_word for token in tokens[position : position + size]):
                continue
            forms = [self.means.get(form, form) for form in _phrase_forms(words)]
            word = next((form for form in forms if form in self.class_of), None)
            if word is None and self.reading == "robust" and all(len(part) >= _PART for part in words) and size < 3:
                word = next((self._unspaced[form] for form in _unspaced_forms(words) if form in self._unspaced), None)
            if word is not None or any(form in self.blockers for form in forms):
                return size, word
        return 1, None

    def _is_other(self, tokens: Sequence[Token], start: int, end: int, word: str) -> bool:
        """Whether a match is something else here: half of a word with a hyphen, a verb or an adjective."""
        if end < len(tokens) and tokens[end].joined:
            return True
        if tokens[start].joined and (tokens[start - 1].text in _NUMERALS or tokens[start - 1].text.isdigit()):
            return True
        if end - start > 1:
            return False
        if word in self.verbs and is_verb(tokens, start, word):
            return True
        return word in self.adjectives and is_adjective(tokens, start, word)

    def mentions(self, text: str) -> list[tuple[str, str]]:
        """Words that name an object, each once, with their classes, in the order of mention."""
        return list({mention.word: (mention.word, mention.name) for mention in self.find(text)}.values())

    def canonical(self, word: str) -> str:
        """The class of a word or phrase, singular or plural; if it has none, its singular."""
        *head, last = word.lower().split() or [""]
        forms = [" ".join([*head, form]) for form in (last, *noun_lemmas(last))]
        known_forms = [*forms, *(form.replace("-", " ").replace("_", " ") for form in forms)]
        return next((self.class_of[form] for form in known_forms if form in self.class_of), forms[1])

    def without(self, words: Sequence[str]) -> "Lexicon":
        """The lexicon without these words and phrases; a class is dropped with its last word."""
        words_by_class: dict[str, list[str]] = {}
        for word, name in self.class_of.items():
            if word not in words:
                words_by_class.setdefault(name, []).append(word)
        smaller = copy.copy(self)
        smaller.classes = tuple(words_by_class)
        smaller.class_of = {word: name for name, names in words_by_class.items() for word in names}
        smaller.blockers = self.blockers - set(words)
        smaller.means = {phrase: word for phrase, word in self.means.items() if phrase not in words}
        smaller._unspaced = {short: word for short, word in self._unspaced.items() if word in smaller.class_of}
        return smaller

    def read_as(self, reading: Reading) -> "Lexicon":
        """The same words, read in another way."""
        other = copy.copy(self)
        other.reading = reading
        return other


def _content(file: Path) -> dict[str, Any]:
    """Arguments of `Lexicon` from a file, merged with those of the lexicon that it extends."""
    document: Any = read_yaml(file)
    words_by_class = {name: list(words or ()) for name, words in document["classes"].items()}
    content = {
        "classes": words_by_class,
        "blockers": list(document.get("blockers") or ()),
        "absorbs": dict(document.get("absorbs") or {}),
        "means": dict(document.get("means") or {}),
        "verbs": list(document.get("verbs") or ()),
        "adjectives": list(document.get("adjectives") or ()),
        **({"reading": document["reading"]} if "reading" in document else {}),
    }
    base = document.get("extends")
    if base is None:
        return content
    if base not in ("coco", "chair"):
        raise ValueError(f"extends: {base} must be coco or chair")
    content_of_base = _content(_FOLDER / f"{base}_objects.yaml")
    base_classes = content_of_base["classes"]
    return {
        "classes": {
            name: [*base_classes.get(name, ()), *words_by_class.get(name, ())]
            for name in (*base_classes, *words_by_class)
        },
        "blockers": [*content_of_base["blockers"], *content["blockers"]],
        "absorbs": content_of_base["absorbs"] | content["absorbs"],
        "means": content_of_base["means"] | content["means"],
        "verbs": [*content_of_base["verbs"], *content["verbs"]],
        "adjectives": [*content_of_base["adjectives"], *content["adjectives"]],
        "reading": content.get("reading", content_of_base["reading"]),
    }


def _phrase_forms(words: Sequence[str]) -> list[str]:
    """Forms of a phrase whose last word may be a plural, likeliest singular first; but "people" first as it is."""
    *head, last = words
    forms = noun_lemmas(last)
    return [" ".join([*head, form]) for form in ((last, *forms) if last in _IRREGULAR else forms)]


def _unspaced_forms(words: Sequence[str]) -> list[str]:
    """Forms of one word or two that may be written together or apart: ``snow boards``, ``firehydrant``."""
    *head, last = words
    return ["".join([*head, form]) for form in noun_lemmas(last)]


@cache
def noun_lemmas(word: str) -> tuple[str, ...]:
    """Singulars that a noun may be the plural of, then the word itself."""
    from lemminflect import getAllLemmas, getAllLemmasOOV

    if word in _IRREGULAR:
        return (_IRREGULAR[word], word)
    lemmas = getAllLemmas(word, upos="NOUN").get("NOUN", ())
    if not lemmas and not getAllLemmas(word):  # in no dictionary: by rule
        lemmas = getAllLemmasOOV(word, upos="NOUN").get("NOUN", ())
    return tuple(dict.fromkeys((*lemmas, word)))


def singular(word: str) -> str:
    """The likeliest singular of an English noun."""
    return noun_lemmas(word)[0]


@cache
def coco() -> Lexicon:
    """The 80 COCO classes with CHAIR's words and some more: for finding objects in sentences."""
    return Lexicon.read("coco")


@cache
def chair_words(reading: Reading = "chair") -> Lexicon:
    """The 80 COCO classes with CHAIR's own words: for scoring captions, so that scores can be compared.

    Args:
        reading: ``chair``, by which published scores are counted, or ``robust``.
    """
    return Lexicon.read("chair").read_as(reading)


@cache
def released_coco() -> Lexicon:
    """CHAIR's words without those that SENTINEL's released generation pipeline lacks (its ``run/object_utils.py``)."""
    phrases = [f"{age} {animal}" for age in ("adult", "baby") for animal in _ANIMALS]
    lacking = ("orange", "remote", "sailboard", "adult", "baby", "mother", "passenger", "monitor", "ball")
    return chair_words().without([*lacking, *phrases])
