"""What jsonargparse says in a tree of every type that a value could have, as one sentence about the one meant."""

import ast
import difflib
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from lit_uniopd.utils.near_names import did_you_mean

_KEY = re.compile(r'(?:Parser key|[kK]ey) "([^"]+)"(?: element \d+)?:?\s*')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_FRAME = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Given value type:|Expected a path but|Subclass types expect|"
    r"(?:a class path \(str\)|a dict with)"
)
_UNKNOWN = re.compile(
    r"unrecognized arguments: --(?P<typed>[\w.+-]+)|[oO]ption '(?P<alone>[^']+)' is not accepted"
    r"|(?:Group '(?P<group>[^']+)')?.* does not accept option '(?P<inside>[^']+)'"
)
_IMPORT = re.compile(r"Expected a dot import path string: (.*)|Unexpected import path format: (.*)")
_LOADED = re.compile(r"Unable to load config ['\"](.*)['\"]")
_PLAIN = re.compile(r"Expected a <class '(?:int|float|bool|str)'>")
_BY_PATH = "by its whole path"
_BY_NAME = f"name a class {_BY_PATH}"
_CLASS_WORDS = f"a class {_BY_PATH}"
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list such as [a, b]",
    "dict": "options such as {name: value}",
    "collections.abc.Iterable": "a list such as [a, b]",
    "collections.abc.Sequence": "a list such as [a, b]",
    "collections.abc.Mapping": "options such as {name: value}",
}
_IN_WORDS = {"None": "null", "True": "true", "False": "false"}


@dataclass(frozen=True, slots=True)
class Complaint:
    """A leaf of the tree."""

    keys: tuple[str, ...]
    """Names of the options on the way to it, as the parser of each class has them."""
    classes: tuple[str, ...]
    """Whose options were read on the way."""
    text: str
    value: str | None = None
    """What was given, as Python prints it."""


def complaints_of(message: str) -> list[Complaint]:
    """The leaves of an error's tree, of which indentation is the structure."""
    complaints: list[Complaint] = []
    plain_options = False  # of a dataclass, which needs no class path
    stack: list[tuple[int, str, str]] = []
    for line in message.splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        while text.startswith("- "):
            text, indent = text[2:], indent + 2
        while stack and text and stack[-1][0] >= indent:
            stack.pop()
        if given := re.match(r"Given value: (.*)", text):
            keys = tuple(name for _, kind, name in stack if kind == "key")
            value = given[1].partition(". Got value: ")[0]
            complaints = [replace(c, value=value) if c.value is None and c.keys == keys else c for c in complaints]
            continue
        if text.startswith("Subtypes:"):
            plain_options = any(is_dataclass(_imported(name)) for name in re.findall(r"<class '([\w.]+)'>", text))
        if path := _CLASS.match(text):
            stack.append((indent, "class", path[1]))
            text = text[path.end() :].lstrip(":. ")
        while key := _KEY.search(text):
            stack.append((indent, "key", key[1]))
            text = text[key.end() :]
        if text and not _FRAME.match(text):
            text, got, value = text.partition(". Got value:")
            if plain_options and _IMPORT.match(text):
                text = "Expected a <class 'dict'>"
            keys, classes = (tuple(name for _, each, name in stack if each == kind) for kind in ("key", "class"))
            complaints.append(Complaint(keys, classes, text.rstrip(". "), value.strip() if got else None))
    return complaints


def deepest(complaints: Sequence[Complaint]) -> list[Complaint]:
    """Those of the type that came nearest to what was given; that null would do is said of no other."""
    others = [each for each in complaints if "NoneType" not in each.text] or list(complaints)
    depth = max(len(each.keys) + len(each.classes) for each in others)
    return [each for each in others if len(each.keys) + len(each.classes) == depth]


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def full_key(keys: Sequence[str], nested: str | None) -> str:
    """The option as one writes it; names in mappings stand only in the argument that was given.

    Args:
        keys: of a complaint.
        nested: what was given behind the first of them (``teachers.math.pth``), on the command line.
    """
    names = ".".join(keys).split(".")
    first = len(keys[0].split(".")) if keys else 0
    typed = [name for name in (nested or "").split(".") if name not in ("", "init_args")]
    rest, position = names[first:], 0
    for i, name in enumerate(rest):
        if name not in typed[position:]:
            return ".".join([*names[:first], *typed, *rest[i:]])
        position = typed.index(name, position) + 1
    return ".".join([*names[:first], *typed])


def in_config(keys: Sequence[str], value: str | None, settings: Any) -> str | None:
    """The option of a config that a complaint is about, with the names in mappings on its way.

    Args:
        keys: of the complaint.
        value: what the option must have, as Python prints it; None: anything.
        settings: the config's content.
    """
    names = ".".join(keys).split(".")
    for path, setting in _paths(settings):
        plain = [name for name in path if name != "init_args" and not name.isdigit()]
        on_the_way = iter(plain)
        same = value is None or str(setting) == value
        if same and plain[:1] == names[:1] and plain[-1] == names[-1] and all(name in on_the_way for name in names):
            return ".".join(plain)
    return None


def _paths(settings: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    named = dict(enumerate(settings)) if isinstance(settings, list) else settings
    for name, setting in named.items() if isinstance(named, dict) else ():
        yield (*path, str(name)), setting
        yield from _paths(setting, (*path, str(name)))


def options_of(class_path: str) -> list[str]:
    """What a class takes, options of its dataclasses with their keys joined by dots; empty if it cannot be read."""
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_class_arguments(_imported(class_path), fail_untyped=False)
    except (ValueError, TypeError):
        return []
    return [action.dest for action in parser._actions if "help" not in action.dest.split(".")]


def nearest(key: str, known: Collection[str]) -> str | None:
    """The one of those known that was meant, or None."""
    longer = [each for each in known if each.startswith(key)]
    near = longer if len(longer) == 1 else difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    if near:
        return near[0]
    first, dot, rest = key.partition(".")
    sections = {each.partition(".")[0] for each in known}
    near = difflib.get_close_matches(first, sections - {first}, n=1)
    meant = near[0] + dot + rest if near else ""
    while meant and meant not in known:  # what is wrong below the section as well, or cannot be told
        meant = meant.rpartition(".")[0]
    return meant or None


def unknown_option(flag: str, option: str, known: Collection[str]) -> str:
    """That there is no such option, and which there is instead.

    Args:
        flag: with all keys, ``model.loss.gap_treshold``.
        option: the end of it that the class does not know, ``loss.gap_treshold``.
        known: options of the class.
    """
    # A key through `init_args` where there are none does not end as the option does.
    if flag.endswith(option) and (near := nearest(option, known)):
        return f"--{flag}: there is no such option (did you mean --{flag.removesuffix(option)}{near}?)"
    group = option.rpartition(".")[0]
    prefix = f"{group}." if any(each.startswith(f"{group}.") for each in known) else ""
    names = dict.fromkeys(each.removeprefix(prefix).partition(".")[0] for each in known if each.startswith(prefix))
    there = f" (there are {', '.join(names)})" if names else ""
    return f"--{flag}: there is no such option{there}"


def listed_by(help_of: str) -> str:
    """The end of a sentence: where to look.

    Args:
        help_of: the option that prints it, ``help`` or ``model.help=lit_uniopd.modules.UniOPD``.
    """
    return f"`uniopd fit --{help_of}` lists what there is."


def expectation(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """What an option takes, in words, and the choices that it has.

    Args:
        texts: of complaints about one option.
    """
    kinds: list[str] = []
    choices: list[str] = []
    for text in texts:
        if literal := re.match(r"Expected a (?:typing\.)?Literal\[(.*)\]", text):
            choices += map(str, ast.literal_eval(f"({literal[1]},)"))
        elif kind := re.match(r"Expected a <class '([\w.]+)'>", text):
            kinds.append(_TYPES.get(kind[1], kind[1].rpartition(".")[2]))
        elif _LOADED.match(text):
            kinds.append(_TYPES["dict"])
        elif _IMPORT.match(text):
            kinds.append(_CLASS_WORDS)
    if choices:  # a whole number is one of a Literal of numbers
        kinds = [kind for kind in kinds if kind != _TYPES["int"]]
    if {_TYPES["int"], _TYPES["float"]} & set(kinds) or set(kinds) == {_CLASS_WORDS}:  # or a tensor; see `wrong_class`
        kinds = [kind for kind in kinds if kind != _CLASS_WORDS]
    words = [f"one of {', '.join(dict.fromkeys(choices))}"] if choices else []
    return [*words, *dict.fromkeys(kinds)], choices


def shown(value: str) -> str:
    """A value as one writes it."""
    value = _IN_WORDS.get(value, value)
    short = value if len(value) <= 60 else f"{value[:57]}..."
    bare = value in _IN_WORDS.values() or re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?|[\[{(].*", value)
    return short if bare else repr(short)


def wrong_value(flag: str, every: Sequence[Complaint], *, where: str, help_of: str) -> str | None:
    """What an option takes and was not given; None where no complaint says.

    Args:
        flag: with all keys.
        every: all complaints.
        where: the file that it stands in, in brackets.
        help_of: as ``listed_by`` has it.
    """
    nearest = deepest(every)
    keys = nearest[0].keys
    complaints = [each for each in nearest if each.keys == keys]
    null = any("NoneType" in each.text and each.keys == keys for each in every) and len(every) > len(nearest)
    words, choices = expectation([each.text for each in complaints])
    if not words:
        return None
    loaded = [match[1] for each in complaints if (match := _LOADED.match(each.text))]
    value = next((each for each in (*loaded, *(each.value for each in complaints)) if each is not None), None)
    meant = did_you_mean(str(value), choices)
    got = "" if value is None else f", not {shown(value)}"
    unquoted = words == [_TYPES["str"]] and re.fullmatch(r"True|False|[\d.e+-]+", value or "")
    remedy = "put it in quotes." if unquoted else listed_by(help_of)
    return f"--{flag} expects {' or '.join([*words, 'null'] if null else words)}{got}{meant}{where}; {remedy}"


def namesake(module: str) -> str | None:
    """What to do about a folder of the user's that is called as a package of ours; None if there is none.

    Args:
        module: in which a class was looked for.
    """
    package = module.partition(".")[0]
    loaded = getattr(sys.modules.get(package), "__file__", None)
    folder = Path.cwd() / package
    if package not in ("callbacks", "datamodules") or loaded is None or not folder.is_dir():
        return None
    ours = Path(__file__).parents[2] / package
    if not Path(loaded).parent.samefile(ours):
        return f"it hides {ours}, of the same name: rename the folder, or take it off PYTHONPATH"
    if folder.samefile(ours):
        return None
    files = sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")
    hidden = [stem for stem in files if (ours / f"{stem}.py").exists()]
    if module.partition(".")[2] in hidden:
        return f"it hides {folder / module.partition('.')[2]}.py, of the same name: rename that file"
    example = next((stem for stem in files if stem not in hidden), "my_file")
    return (
        f"of your own {folder} each file is found by its name, and __init__.py is not read: name a class as "
        f"{package}.{example}.MyClass"
    )


def misspelt_class(flag: str, module: str, name: str, known: Collection[str]) -> str | None:
    """That a module has no such class, but one of a like name; None if not, or if another module hides the one meant.

    Args:
        flag: with all keys.
        module: that was named.
        name: of the class.
        known: what the module has.
    """
    meant = did_you_mean(name, known, prefix=f"{module}.")
    return f"--{flag}: there is no {name} in {module}{meant}; {_BY_NAME}." if meant and not namesake(module) else None


def wrong_class(flag: str, complaints: Sequence[Complaint]) -> str | None:
    """That a class is none, or none that will do; None where no complaint is about one."""
    for each in complaints:
        if attribute := re.search(r"module '([^']+)' has no attribute '([^']+)'", each.text):
            module, name = attribute[1], attribute[2]
            if misspelt := misspelt_class(flag, module, name, dir(sys.modules.get(module))):
                return misspelt
            file = getattr(sys.modules.get(module), "__file__", None)
            looked = f" ({file})" if file else ""
            meant = did_you_mean(name, dir(sys.modules.get(module)), prefix=f"{module}.")
            return f"--{flag}: there is no {name} in {module}{looked}{meant}; {namesake(module) or _BY_NAME}."
        if absent := re.search(r"No module named '([^']+)'", each.text):
            return f"--{flag}: there is no module {absent[1]}; {namesake(absent[1]) or _BY_NAME}."
        if kind := re.search(r"does not correspond to a subclass of (\w+)", each.text):
            given = each.value or (each.classes[-1] if each.classes else "it")
            return f"--{flag}: {given} is no {kind[1]}; name one {_BY_PATH}."
        if kind := re.search(r"Expected '([^']+)' to be a .*?(\w+)\W*$", each.text):
            return f"--{flag}: {kind[1]} is no {kind[2]}; name one {_BY_PATH}."
        if path := _IMPORT.search(each.text):
            name = path[1] or path[2] or ""
            there = f"there is no {name}" if name.isidentifier() else f"{shown(name)} is no class"
            return f"--{flag}: {there}; name a class {_BY_PATH}, as lit_uniopd.modules.UniOPD."
    return None


def sentence(message: str, known: Collection[str], configs: Mapping[str, Any]) -> str:
    """One sentence for jsonargparse's tree.

    Args:
        message: over many lines.
        known: options of the parser that raised it.
        configs: file -> its content, of the config files that were given.
    """
    every = complaints_of(message)
    complaints = deepest(every)
    first = complaints[0]
    name = next((_unknown(match) for each in complaints if (match := _UNKNOWN.search(each.text))), None)
    keys = (*first.keys, name) if name else first.keys
    typed = re.findall(r"NestedArg\(key='([^']*)', val=", message)
    flag, where = full_key(keys, typed[-1] if typed else None), ""
    for file, settings in () if typed or not keys else configs.items():
        if there := in_config(keys, None if name else first.value, settings):
            flag, where = there, f" (in {file})"
    help_of = f"{first.keys[0]}.help={first.classes[0]}" if first.classes and first.keys else "help"
    lists = listed_by(help_of)
    if name == "class_path":
        flag, name = _beside_class_path(message, flag)
        return f"{unknown_option(flag, name, ['class_path', 'init_args', 'dict_kwargs'])}{where}; {lists}"
    if name:
        constructed = re.search(r"class_path='([\w.]+)'", first.value or "")
        class_path = constructed[1] if constructed else first.classes[-1] if first.classes else None
        options = options_of(class_path) if class_path else known
        return f"{unknown_option(flag, name, options)}{where}; {lists}"
    below = re.match(r"NestedArg\(key='([^']*)'", first.value or "")
    if below and all(_PLAIN.match(each.text) for each in complaints):
        return f"--{flag}: there is no such option: --{flag.removesuffix(f'.{below[1]}')} has none; {lists}"
    if len(keys) == 1 and any((each.value or "").startswith("NestedArg(") for each in complaints):
        return f"--{flag} is an option of a class; name the class before it, by --{keys[0]}."
    if problem := wrong_value(flag, every, where=where, help_of=help_of):
        return problem
    if problem := wrong_class(flag, complaints):
        return problem
    if "is required" in first.text:
        return f"--{flag} is missing; give it."
    prefix = f"--{flag}: " if flag else ""
    texts = dict.fromkeys(each.text.replace("typing.", "") for each in complaints)
    return f"{prefix}{' or '.join(texts)}{where}; {lists}"


def _unknown(match: re.Match[str]) -> str:
    group = f"{match['group']}." if match["group"] else ""
    return group + (match["typed"] or match["alone"] or match["inside"])


def _beside_class_path(message: str, flag: str) -> tuple[str, str]:
    """A misspelt key beside ``class_path``, of which jsonargparse says that ``class_path`` is not accepted."""
    for given in re.findall(r"Given value: (\{.*\})", message):
        try:
            names = [name for name in ast.literal_eval(given) if name not in ("class_path", "init_args", "dict_kwargs")]
        except (ValueError, SyntaxError):
            continue
        if names:
            return f"{flag.removesuffix('class_path')}{names[0]}", names[0]
    return flag, "class_path"
