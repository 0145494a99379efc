"""Objects named in a text: a lexicon of words and phrases, matched longest first."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lit_uniopd.errors import UserError

COCO = Path(__file__).parent / "coco_objects.yaml"
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_IRREGULAR = {
    **{"men": "man", "women": "woman", "people": "person", "children": "child", "ladies": "lady", "babies": "baby"},
    **{"knives": "knife", "calves": "calf", "mice": "mouse", "geese": "goose", "policemen": "policeman"},
    **{"fishermen": "fisherman", "oxen": "ox", "puppies": "puppy", "ponies": "pony", "teeth": "tooth"},
    **{
        "skis": "skis",
        "scissors": "scissors",
        "bus": "bus",
        "buses": "bus",
        "glasses": "glass",
        "tennis": "tennis",
        "wolves": "wolf",
    },
}


class Lexicon:
    """Words for objects.

    Args:
        classes: class -> words and phrases for it, in the singular; the class's own name is one of them.
        blockers: phrases in which a word does not mean its object (``train track``).

    Raises:
        UserError: if a word stands for two classes.
    """

    def __init__(self, classes: Mapping[str, Sequence[str]], blockers: Sequence[str] = ()) -> None:
        self.classes = tuple(classes)
        self.class_of: dict[str, str] = {}
        for name, words in classes.items():
            for word in (name, *words):
                if self.class_of.setdefault(word, name) != name:
                    raise UserError(f"The word {word!r} stands for {self.class_of[word]!r} and for {name!r}; keep one.")
        self.blockers = frozenset(blockers) - set(self.class_of)
        self._longest = max(len(phrase.split()) for phrase in (*self.class_of, *self.blockers))

    @classmethod
    def read(cls, path: Path) -> "Lexicon":
        """A lexicon from a YAML file with ``classes`` and ``blockers``.

        Raises:
            UserError: if it is none.
        """
        try:
            content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
            return cls(content["classes"], content.get("blockers", ()))
        except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise UserError(f"{path} is no lexicon ({error!r}); see coco_objects.yaml for the form.") from error

    def mentions(self, text: str) -> list[tuple[str, str]]:
        """Words that name an object, each once, with their classes, in the order of mention."""
        words = _WORD.findall(text.lower())
        found: dict[str, str] = {}
        place = 0
        while place < len(words):
            for size in range(min(self._longest, len(words) - place), 0, -1):
                head, last = words[place : place + size - 1], words[place + size - 1]
                forms = [" ".join([*head, last]), " ".join([*head, singular(last)])]
                if any(form in self.blockers for form in forms):
                    break
                form = next((form for form in reversed(forms) if form in self.class_of), None)
                if form is not None:
                    found.setdefault(form, self.class_of[form])
                    break
            else:
                size = 1
            place += size
        return list(found.items())


def singular(word: str) -> str:
    """The singular of an English noun, by rules that suit the names of objects."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending, cut, add in (
        ("ies", 3, "y"),
        ("shes", 2, ""),
        ("ches", 2, ""),
        ("xes", 2, ""),
        ("sses", 2, ""),
        ("buses", 2, ""),
    ):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: len(word) - cut] + add
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) and len(word) > 3 else word


@cache
def coco() -> Lexicon:
    """The lexicon of the 80 COCO classes."""
    return Lexicon.read(COCO)
