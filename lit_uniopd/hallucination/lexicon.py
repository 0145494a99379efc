"""Objects named in a text: a lexicon of words and phrases, matched longest first."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lit_uniopd.errors import UserError

COCO = Path(__file__).parent / "coco_objects.yaml"
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_IRREGULAR = {"people": "person", "oxen": "ox"}
"""Plurals that lemminflect's dictionary does not have."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A word or phrase that names an object."""

    word: str
    """As the lexicon has it, in the singular."""
    name: str
    """Its class."""
    start: int
    """Character at which it begins."""


class Lexicon:
    """Words for objects.

    Args:
        classes: class -> words and phrases for it, in the singular; the class's own name is one of them.
        blockers: phrases in which a word does not mean its object (``train track``).
        absorbs: class -> words that mean nothing of their own in a text that names it (``toilet: [seat]``).

    Raises:
        UserError: if a word stands for two classes.
    """

    def __init__(
        self,
        classes: Mapping[str, Sequence[str]],
        blockers: Sequence[str] = (),
        absorbs: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.class_of: dict[str, str] = {}
        for name, words in classes.items():
            for word in (name, *words):
                if self.class_of.setdefault(word, name) != name:
                    raise UserError(f"The word {word!r} stands for {self.class_of[word]!r} and for {name!r}; keep one.")
        self.blockers = frozenset(blockers) - set(self.class_of)
        self.absorbs = {name: frozenset(words) for name, words in (absorbs or {}).items()}
        self._longest = max(len(phrase.split()) for phrase in (*self.class_of, *self.blockers))

    @classmethod
    def read(cls, path: str | Path) -> "Lexicon":
        """A lexicon from a YAML file with ``classes``, ``blockers`` and ``absorbs``; ``extends: coco`` adds to COCO's.

        Raises:
            UserError: if it is none.
        """
        try:
            content: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            classes = {name: list(words or ()) for name, words in content["classes"].items()}
            blockers, absorbs = list(content.get("blockers", ())), dict(content.get("absorbs", {}))
            if content.get("extends") == "coco":
                base: Any = yaml.safe_load(COCO.read_text(encoding="utf-8"))
                new = [(name, words) for name, words in classes.items() if name not in base["classes"]]
                classes = {name: [*words, *classes.get(name, ())] for name, words in base["classes"].items()}
                classes |= dict(new)
                blockers += base["blockers"]
                absorbs = {**base["absorbs"], **absorbs}
            return cls(classes, blockers, absorbs)
        except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise UserError(f"{path} is no lexicon ({error!r}); see coco_objects.yaml for the form.") from error

    def find(self, text: str) -> list[Mention]:
        """Every mention of an object, in order; a repeated word counts again."""
        places = [(match.group(), match.start()) for match in _WORD.finditer(text.lower())]
        words = [word for word, _ in places]
        found: list[Mention] = []
        place = 0
        while place < len(words):
            for size in range(min(self._longest, len(words) - place), 0, -1):
                head, last = words[place : place + size - 1], words[place + size - 1]
                forms = [" ".join([*head, form]) for form in noun_lemmas(last)]
                if any(form in self.blockers for form in forms):
                    break
                known = next((form for form in forms if form in self.class_of), None)
                if known is not None:
                    found.append(Mention(known, self.class_of[known], places[place][1]))
                    break
            else:
                size = 1
            place += size
        named = {mention.name for mention in found}
        absorbed = {word for name, words in self.absorbs.items() if name in named for word in words}
        return [mention for mention in found if mention.word not in absorbed]

    def mentions(self, text: str) -> list[tuple[str, str]]:
        """Words that name an object, each once, with their classes, in the order of mention."""
        return list({mention.word: (mention.word, mention.name) for mention in self.find(text)}.values())

    def canonical(self, word: str) -> str:
        """The class of a word or phrase in the singular or plural; of one that stands for none, its singular."""
        *head, last = word.lower().split() or [""]
        forms = [" ".join([*head, form]) for form in (last, *noun_lemmas(last))]
        return next((self.class_of[form] for form in forms if form in self.class_of), forms[1])

    def without(self, words: Sequence[str]) -> "Lexicon":
        """The same lexicon, in which these words name nothing; a class goes with its last word."""
        kept: dict[str, list[str]] = {}
        for word, name in self.class_of.items():
            if word not in words:
                kept.setdefault(name, []).append(word)
        absorbs = {name: sorted(absorbed) for name, absorbed in self.absorbs.items()}
        smaller = Lexicon(dict.fromkeys(kept, ()), sorted(self.blockers), absorbs)
        smaller.class_of = {word: name for name, names in kept.items() for word in names}
        smaller._longest = self._longest
        return smaller


@cache
def noun_lemmas(word: str) -> tuple[str, ...]:
    """Singulars that a noun may be the plural of, then the word itself."""
    from lemminflect import getAllLemmas, getAllLemmasOOV

    if word in _IRREGULAR:
        return (_IRREGULAR[word], word)
    known = getAllLemmas(word, upos="NOUN").get("NOUN", ())
    if not known and not getAllLemmas(word):  # in no dictionary: by rule
        known = getAllLemmasOOV(word, upos="NOUN").get("NOUN", ())
    return tuple(dict.fromkeys((*known, word)))


def singular(word: str) -> str:
    """The likeliest singular of an English noun."""
    return noun_lemmas(word)[0]


@cache
def coco() -> Lexicon:
    """The lexicon of the 80 COCO classes."""
    return Lexicon.read(COCO)


@cache
def released_coco() -> Lexicon:
    """COCO's lexicon without words that SENTINEL's released generation pipeline is known to lack."""
    return coco().without(
        (
            "orange",
            "remote",
            "remote control",
            "sailboard",
            "adult",
            "baby",
            "mother",
            "passenger",
            "monitor",
            "ball",
            "batter",
        )
    )
