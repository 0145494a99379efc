"""What our classes take, read from their source: to import them is to import torch."""

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lit_uniopd.utils.own_folder import own_folder

_PACKAGES = ("lit_uniopd", "datamodules")
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Held:
    """The dataclass that an option holds."""

    module: str
    name: str
    plain: bool = True
    """Whether it holds nothing else, as null or a list: the parser then counts its options among those of the class."""
    by_name: bool = False
    """Whether it holds many, each below a name of the user's, as teachers are."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A number, a truth value or a choice; a text is none, which any value is."""

    type: Any


Options = Mapping[str, Held | Plain | None]
"""Option -> what it holds; None: what that is, only the parser knows."""
_PLAIN_TYPES: Mapping[str, Any] = {"int": int, "float": float, "bool": bool}


@cache
def options_in_source(module: str, name: str) -> Options | None:
    """The options of a class as the parser has them, those of plain dataclasses behind theirs, joined by dots.

    Args:
        module: that defines it, or imports it.
        name: of the class.

    Returns:
        None if it, or a base that it has options from, is not ours.
    """
    declared = _declared(module, name)
    if declared is None:
        return None
    options: dict[str, Held | Plain | None] = {}
    for key, held in declared.items():
        below = options_in_source(held.module, held.name) if isinstance(held, Held) and held.plain else None
        options |= {key: held, **{f"{key}.{each}": inside for each, inside in (below or {}).items()}}
    return options


@cache
def trainer_methods() -> Mapping[str, Mapping[str, Plain | None]]:
    """What each method of Lightning's trainer takes, by its name; empty if Lightning has it in another file."""
    spec = importlib.util.find_spec("lightning")
    file = Path(spec.origin).parent / "pytorch/trainer/trainer.py" if spec and spec.origin else None
    body = ast.parse(file.read_bytes()).body if file and file.is_file() else []
    classes = [node for node in body if isinstance(node, ast.ClassDef) and node.name == "Trainer"]
    methods = [node for cls in classes for node in cls.body if isinstance(node, ast.FunctionDef)]
    return {
        method.name: {each.arg: _plain("lightning", each.annotation) for each in _parameters(method)}
        for method in methods
    }


def names_in_source(package: str) -> list[str]:
    """What is in a package of ours; nothing if a package of the user's hides it, or a folder of the user's adds to it.

    Args:
        package: whose ``__init__`` only imports.
    """
    folder, names = _ROOT.joinpath(*package.split(".")), _names_in(package)
    if not names or own_folder(package, [str(folder)]):
        return []
    return [*names, *(path.stem for path in folder.iterdir())]


def _declared(module: str, name: str) -> dict[str, Held | Plain | None] | None:
    module, cls = _definition(module, name)
    if not isinstance(cls, ast.ClassDef):
        return None
    declared: dict[str, Held | Plain | None] = {}
    inherits = True
    is_data = _is_dataclass(cls)
    for node in cls.body:
        if is_data and isinstance(node, ast.AnnAssign):
            declared[ast.unparse(node.target)] = _held(module, node.annotation) or _plain(module, node.annotation)
        elif not is_data and isinstance(node, ast.FunctionDef) and node.name == "__init__":
            declared = {e.arg: _held(module, e.annotation) or _plain(module, e.annotation) for e in _parameters(node)}
            inherits = node.args.kwarg is not None
    for base in cls.bases if inherits else ():
        above = _declared(module, ast.unparse(base))
        if above is None:
            return None
        # A dataclass has its bases' fields first, a class its own parameters.
        declared = above | declared if is_data else declared | {k: above[k] for k in above if k not in declared}
    return declared


def _parameters(method: ast.FunctionDef) -> list[ast.arg]:
    return [*method.args.args[1:], *method.args.kwonlyargs]  # without self


def _is_dataclass(cls: ast.ClassDef) -> bool:
    return any(ast.unparse(each).startswith("dataclass") for each in cls.decorator_list)


def _held(module: str, annotation: ast.expr | None) -> Held | None:
    match annotation:
        case ast.Name(id=name):
            module, node = _definition(module, name)
            if not isinstance(node, ast.ClassDef):
                return _held(module, node)  # of an alias
            return Held(module, node.name) if _is_dataclass(node) else None
        case ast.BinOp(left=left, right=right) if ast.unparse(right) in ("None", f"list[{ast.unparse(left)}]"):
            held = _held(module, left)
            return replace(held, plain=False) if held else None
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[ast.Name(id="str"), value])):
            held = _held(module, value)
            return replace(held, plain=False, by_name=True) if held and not held.by_name else None
    return None


def _plain(module: str, annotation: Any) -> Plain | None:
    match annotation:
        case ast.Constant(value=None):
            return Plain(None)
        case ast.Name(id=name) if name in _PLAIN_TYPES:
            return Plain(_PLAIN_TYPES[name])
        case ast.Name(id=name):
            return _plain(*_definition(module, name))  # of an alias
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return Plain(Literal[ast.literal_eval(choices)])
        case ast.Subscript(value=ast.Name(id="Optional"), slice=other):
            return _either(module, other, ast.Constant(None))
        case (
            ast.BinOp(left=one, right=other)
            | ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=[one, other]))
        ):
            return _either(module, one, other)
    return None


def _either(module: str, one: ast.expr, other: ast.expr) -> Plain | None:
    first, second = _plain(module, one), _plain(module, other)
    return Plain(first.type | second.type) if first and second else None


def _definition(module: str, name: str) -> tuple[str, Any]:
    """The module that a name is from, and its source there; None: it is not ours."""
    node: Any = (module, name)
    while isinstance(node, tuple):
        module, name = node
        node = _names_in(module).get(name)
    return module, node


@cache
def _names_in(module: str) -> Mapping[str, Any]:
    """What a module of ours defines, as source, and what it imports, as (module, name)."""
    package, *parts = module.split(".")
    spec = importlib.util.find_spec(package) if package in _PACKAGES else None  # which imports nothing
    path = _ROOT.joinpath(package, *parts)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if spec is None or spec.origin != str(_ROOT / package / "__init__.py") or not file.is_file():
        return {}  # also of a user's package that hides ours
    names: dict[str, Any] = {}
    waiting = ast.parse(file.read_bytes()).body
    for node in waiting:  # which grows on the way
        match node:
            case ast.ImportFrom(module=str(source), level=0):
                names |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
            case ast.ClassDef():
                names[node.name] = node
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = value
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                waiting += node.orelse
    return names
