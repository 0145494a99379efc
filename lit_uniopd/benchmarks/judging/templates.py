"""The wording of a judge's questions: ours, a user's file, or a file of an installed package."""

import hashlib
import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from lit_uniopd.errors import UserError
from lit_uniopd.utils.strict_yaml import read_yaml

WORDINGS = Path(__file__).parent / "wordings"
FIELDS = {
    "question": ("question", "instruction", "QUESTION", "question_1"),
    "answer_a": ("answer_a", "output_1", "ANSWER_A", "answer_1"),
    "answer_b": ("answer_b", "output_2", "ANSWER_B", "answer_2"),
    "answer": ("answer", "prediction"),
    "reference": ("reference", "ground_truth"),
    "rubric": ("rubric",),
    "own_prompt": ("own_prompt",),
}
"""What a wording is filled with -> its names, ours first, then those of the official wordings."""
_NAMES = {name: field for field, names in FIELDS.items() for name in names}
_FIELD = re.compile("{(" + "|".join(_NAMES) + ")}")
_TURN = re.compile(r"<\|im_start\|>(system|user|assistant)\n(.*?)\s*<\|im_end\|>", re.DOTALL)
_KEYS = {"name", "version", "letters", "system", "system_prompt", "user", "prompt_template"}

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Template:
    """A judge's question before the answers are in it."""

    name: str
    """Scores stand under it: ours never has the name of an official wording."""
    version: str
    turns: tuple[tuple[str, str], ...]
    """Role and text of each message."""
    letters: tuple[str, str] | None = None
    """By which the judge names the first and the second answer; None: as the benchmark's official wording does."""

    @property
    def sha256(self) -> str:
        """Of the wording, as records have it."""
        return hashlib.sha256(json.dumps([self.turns, self.letters]).encode()).hexdigest()[:16]

    @property
    def identity(self) -> dict[str, str]:
        """What records say of it."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}

    def fill(self, values: Mapping[str, str]) -> Messages:
        """The messages with answers in them; in one pass, so that braces in an answer are left alone.

        Args:
            values: key of ``FIELDS`` -> text.
        """
        return [
            {"role": role, "content": _FIELD.sub(lambda m: values[_NAMES[m[1]]], text)} for role, text in self.turns
        ]

    @property
    def fields(self) -> set[str]:
        """What it is filled with."""
        return {_NAMES[name] for _, text in self.turns for name in _FIELD.findall(text)}


def own_template(kind: str) -> Template:
    """Our wording for a kind of benchmark."""
    return _from_yaml(WORDINGS / f"{kind}.yaml")


def read_template(
    source: str, needed: Set[str], may_show: Set[str] = frozenset(), instead: Set[str] = frozenset()
) -> Template:
    """A user's wording.

    Args:
        source: a text file, a YAML file with ``user`` (or ``prompt_template``) and perhaps ``system`` (or
            ``system_prompt``) and ``letters``, or ``PACKAGE:PATH`` of such a file inside an installed package.
        needed: what it must be filled with.
        may_show: what it may be filled with too.
        instead: of what one does in the place of all that.

    Raises:
        UserError: if there is no such file, or it lacks a field.
    """
    path, version = Path(source).expanduser(), "file"
    if not path.is_file() and ":" in source:
        path, version = _packaged(source)
    if not path.is_file():
        raise UserError(
            f"--template {source} is no file; give a text or YAML file, or PACKAGE:PATH of one in an installed package."
        )
    if path.suffix in (".yaml", ".yml"):
        template = _from_yaml(path, version)
    else:
        text = path.read_text(encoding="utf-8")
        turns = tuple(_TURN.findall(text)) or (("user", text.strip()),)
        template = Template(path.stem, version, turns)
    if template.name in {own_template(file.stem).name for file in WORDINGS.glob("*.yaml")}:
        raise UserError(f"--template {source} has the name of our own wording, {template.name}; give it another.")
    missing = sorted(needed - template.fields)
    if missing and not template.fields & instead:
        names = " or ".join(f"{{{name}}}" for name in FIELDS[missing[0]])
        raise UserError(f"--template {source} has no place for the {missing[0]}; write {names} where it belongs.")
    if foreign := sorted(template.fields - needed - may_show - instead):
        raise UserError(
            f"--template {source} asks for the {foreign[0]}, which this benchmark's judge is not shown; remove it."
        )
    return template


def _from_yaml(path: Path, version: str = "file") -> Template:
    content: Any = read_yaml(path, "--template")
    user = content.get("user", content.get("prompt_template")) if isinstance(content, dict) else None
    if not isinstance(user, str):
        raise UserError(f"--template {path} must have the text of the user's turn under `user`; add it.")
    unknown = sorted(set(content) - _KEYS)
    if unknown:
        raise UserError(
            f"--template {path} has {unknown[0]!r}, which is no part of a wording (name, version, letters, system, "
            "user); remove it."
        )
    system = content.get("system", content.get("system_prompt"))
    turns = ((("system", str(system)),) if system else ()) + (("user", user),)
    name, letters = str(content.get("name", path.stem)), content.get("letters")
    if letters is not None and (not isinstance(letters, list) or len(set(map(str, letters))) != 2):
        raise UserError(f"--template {path}: `letters` must be two different texts such as [m, M], not {letters!r}.")
    pair = None if letters is None else (str(letters[0]), str(letters[1]))
    return Template(name, str(content.get("version", version)), turns, pair)


def _packaged(source: str) -> tuple[Path, str]:
    """A file inside an installed package, which is not imported, and the package's version."""
    package, _, inner = source.partition(":")
    spec = util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"--template {source}: there is no package {package!r} here; install it, or give the path of a file."
        )
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        version = "unknown"
    return Path(spec.submodule_search_locations[0]) / inner, f"{package} {version}"
