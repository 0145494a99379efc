"""YAML that people wrote: what PyYAML lets pass, and a run would trip over, is refused."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lit_uniopd.errors import UserError


class StrictLoader(yaml.SafeLoader):
    """PyYAML's, with numbers as in YAML 1.2: 1e-5 is one, and 12:30, 010 and 2026-01-31 are texts."""


_NUMBERS = {
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
        r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
}
_REPLACED = (*_NUMBERS, "tag:yaml.org,2002:timestamp")
StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    StrictLoader.add_implicit_resolver(_tag, _pattern, list("-+0123456789."))


def read_yaml(path: Path, flag: str = "") -> Any:
    """The value in a YAML file.

    Args:
        path: of the file.
        flag: the option that names it (``--config``), for messages.

    Raises:
        UserError: naming the file and the line, if it is not YAML or has a key twice in one mapping.
        OSError: if it cannot be read.
    """
    where = f"{flag} {path}".strip()
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), where)
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not YAML (it is no text); mend it.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        problem = getattr(error, "problem", None) or "it is no text"
        raise UserError(f"{where} is not YAML{place} ({problem}); mend it.") from error


def parse_yaml(text: str, where: str, loader: type[yaml.SafeLoader] = StrictLoader) -> Any:
    """The value in a text.

    Args:
        text: one YAML document.
        where: the file or the option, for messages.
        loader: which words are numbers, null and the like.

    Raises:
        UserError: if a key is written twice in one mapping, of which PyYAML takes the last.
        yaml.YAMLError: if it is not YAML.
    """
    reader = loader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None
        for key, first, again in _repeated_keys(node):
            raise UserError(f"{where} has the key {key!r} at line {first} and again at line {again}; keep one of them.")
        return reader.construct_document(node)
    finally:
        reader.dispose()


def _repeated_keys(root: yaml.Node) -> Iterator[tuple[str, int, int]]:
    """Keys from the top, joined by dots, with both lines; merge keys (``<<``) may be repeated, nothing is lost."""
    waiting, visited = [(root, "")], set[int]()
    for node, prefix in waiting:  # which grows on the way
        if id(node) in visited:  # an anchor's
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(item, f"{prefix}{index}.") for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    waiting.append((value, prefix))
                    continue
                waiting.append((value, f"{prefix}{key.value}."))
                line = key.start_mark.line + 1
                if (key.tag, key.value) in lines:
                    yield f"{prefix}{key.value}", lines[key.tag, key.value], line
                lines[key.tag, key.value] = line
