"""Every call and signature that a page, a notebook or a docstring shows, against the code."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import callbacks
import datamodules
import lit_uniopd

ROOT = Path(__file__).parents[1]
PACKAGES = (lit_uniopd, callbacks, datamodules)
NEEDS_MORE = {"lit_uniopd.__main__"}
"""Modules that run something."""
CODE = re.compile(r"``([^`]+)``|`([^`\n]+)`")
FENCE = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@cache
def ours() -> dict[str, list[Any]]:
    """Name -> the classes and functions of ours with that name."""
    names: dict[str, list[Any]] = {}
    for package in PACKAGES:
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name in NEEDS_MORE:
                continue
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                home = getattr(value, "__module__", None)
                if home == info.name and (inspect.isclass(value) or inspect.isfunction(value)):
                    names.setdefault(name, []).append(value)
    return names


def callables(function: ast.expr) -> list[Any]:
    """What a call may mean, of ours: `read(...)`, `Lexicon.read(...)`, `functional.opd_loss(...)`."""
    if isinstance(function, ast.Name):
        return ours().get(function.id, [])
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        owners = [each for each in ours().get(function.value.id, []) if inspect.isclass(each)]
        return [value for each in owners if callable(value := getattr(each, function.attr, None))]
    return []


def names_in(call: ast.Call) -> set[str]:
    return {arg.id for arg in call.args if isinstance(arg, ast.Name)}


def misfit(call: ast.Call, *, signature: bool) -> str | None:
    """Why a call binds to nothing of that name; None if it does, or is none of ours.

    Args:
        call: from a page.
        signature: names in it are those of parameters.
    """
    candidates = callables(call.func)
    if signature:
        candidates = [each for each in candidates if names_in(call) <= set(inspect.signature(each).parameters)]
        if callables(call.func) and not candidates:
            return f"{ast.unparse(call)}: no parameters {', '.join(sorted(names_in(call)))}"
    if not candidates or any(isinstance(arg, ast.Starred) for arg in call.args):
        return None
    dots = [arg for arg in call.args if isinstance(arg, ast.Constant) and arg.value is ...]
    given = [None] * (len(call.args) - (len(dots) if len(call.args) > len(dots) or call.keywords else 0))
    named: dict[str, Any] = {keyword.arg: None for keyword in call.keywords if keyword.arg is not None}
    reasons = []
    for candidate in candidates:
        try:
            inspect.signature(candidate).bind_partial(*given, **named)
        except TypeError as error:
            reasons.append(str(error))
        else:
            return None
    return f"{ast.unparse(call)}: {reasons[0]}"


def mismatch(signature: str) -> str | None:
    """Why ``f(x, *, y=1)`` is no signature of ours; None if it is, or is none of ours."""
    try:
        (written,) = ast.parse(f"def {signature.partition(' -> ')[0]}: ...").body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(written, ast.FunctionDef):
        return None
    args = written.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    candidates = ours().get(written.name, [])
    unknown = [set(names) - set(inspect.signature(each).parameters) for each in candidates]
    return f"{signature}: no {unknown[0]}" if unknown and all(unknown) else None


def faults_of(code: str) -> list[str]:
    """What is wrong in a piece of code, or in a signature."""
    try:
        tree = ast.parse(code.strip())
    except SyntaxError:
        return [fault] if (fault := mismatch(code.strip())) else []
    local = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls = [call for call in calls if not (isinstance(call.func, ast.Name) and call.func.id in local)]
    alone = len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr) and "\n" not in code.strip()
    statement = tree.body[0].value if alone and isinstance(tree.body[0], ast.Expr) else None
    return [fault for call in calls if (fault := misfit(call, signature=call is statement))]


def code_in(text: str) -> Iterator[str]:
    """Blocks and pieces of code of a page or a docstring."""
    yield from (match[1] for match in FENCE.finditer(text))
    yield from ((match[1] or match[2]).removesuffix("...") for match in CODE.finditer(FENCE.sub("", text)))


def examples_in(docstring: str) -> Iterator[str]:
    """Lines behind >>>, with those that go on behind ..."""
    lines = re.findall(r"^\s*(?:>>>|\.\.\.) ?(.*)$", docstring, re.MULTILINE)
    if lines:
        yield "\n".join(lines)


def texts_of(path: Path) -> Iterator[str]:
    if path.suffix == ".md":
        yield from code_in(path.read_text())
    elif path.suffix == ".ipynb":
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            yield from (
                [re.sub(r"^%.*", "", source, flags=re.MULTILINE)] if cell["cell_type"] == "code" else code_in(source)
            )
    else:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from code_in(node.value)
                yield from examples_in(node.value)


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.ipynb")]
SOURCES = [path for package in PACKAGES for path in Path(str(package.__path__[0])).rglob("*.py")]


@pytest.mark.parametrize("path", sorted(PAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_calls_of_a_page_bind(path: Path):
    assert [fault for code in texts_of(path) for fault in faults_of(code)] == []


def test_calls_of_docstrings_and_messages_bind():
    faults = {str(path.relative_to(ROOT)): [f for code in texts_of(path) for f in faults_of(code)] for path in SOURCES}
    assert {file: each for file, each in faults.items() if each} == {}


def test_many_calls_are_looked_at():
    found = [code for path in (*PAGES, *SOURCES) for code in texts_of(path) if "(" in code]
    calls = [node for code in found for node in calls_in(code) if callables(node.func)]
    assert len(calls) > 100


def calls_in(code: str) -> list[ast.Call]:
    try:
        return [node for node in ast.walk(ast.parse(code.strip())) if isinstance(node, ast.Call)]
    except SyntaxError:
        return []


@pytest.mark.parametrize(
    "code",
    [
        "UniOPD(student=..., teechers=...)",
        "SourceArgs(file='x')",
        "opd_loss(1, 2, 3, 4, 5)",
        "Lexicon.read()(), Lexicon.read(1, 2)",
        "opd_loss(logps_BT, *, denominater=None)",
        "opd_loss(logps, old_logps)",
    ],
)
def test_what_does_not_bind_is_seen(code):
    assert faults_of(code)


@pytest.mark.parametrize(
    "code",
    ["UniOPD(student=..., teachers=...)", "UniOPD(...)", "print(1, 2)", "opd_loss(logps_BT, *, denominator=None)"],
)
def test_what_binds_is_left_alone(code):
    assert not faults_of(code)
