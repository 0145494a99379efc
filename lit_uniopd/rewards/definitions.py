"""Which statements of a response's blocks make the program that defines a function.

Syntax trees only: nothing is run. Walks are loops, so nesting is no matter; what the parser refuses is no program.
"""

import ast
import builtins
import re
from collections.abc import Iterable, Sequence

MAX_CHARACTERS = 50_000
"""Longer programs are not looked into: a syntax tree takes a thousand times their memory."""
_FUTURE = re.compile(r"^from __future__ import [^\n(]*$", re.MULTILINE)
_ESCAPE = re.compile(r"\\[^\n]")
_BUILTINS = frozenset(dir(builtins))

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Import = ast.Import | ast.ImportFrom
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
_Assignment = ast.Assign | ast.AnnAssign | ast.AugAssign


def syntax_tree(code: str) -> ast.Module | None:
    """The tree of a program; None if it has none, or is too long."""
    tree = _parse(code) if len(code) <= MAX_CHARACTERS else 1
    return None if isinstance(tree, int) else tree


def error_line(code: str) -> int | None:
    """Line of the first syntax error, counted from 1; None without one."""
    tree = _parse(code)
    return tree if isinstance(tree, int) else None


def defining_program(blocks: Sequence[str], entry_point: str) -> str | None:
    """The last block that defines a name, with what it needs of the others and without what follows as usage.

    Of the other blocks come imports, functions, classes and assignments of names that the block uses and does not
    define, the nearest block before it first. Behind the definition, statements that only use it (asserts, prints,
    reading of input) are left out; EvalPlus' `sanitize` drops those too.

    Args:
        blocks: source texts in the order of the response.
        entry_point: a function, or a method of a class ``Solution``.

    Returns:
        None if no block that can be parsed defines it.
    """
    trees = [syntax_tree(block) for block in blocks]
    # A test block may import the function from a module that does not exist.
    for imports in (False, True):
        for index in reversed(range(len(blocks))):
            tree = trees[index]
            if tree is not None and any(_defines(node, entry_point, imports) for node in tree.body):
                usage = _usage(tree.body, entry_point, imports)
                helpers = _helpers(blocks, trees, index, usage)
                return after_prelude("\n".join(helpers), _without(blocks[index], tree.body, usage))
    return None


def after_prelude(prelude: str, program: str) -> str:
    """A program behind other code; its ``from __future__`` imports stay in front."""
    if not prelude:
        return program
    future = "\n".join(_FUTURE.findall(program))
    return "\n".join(filter(None, [future, prelude, _FUTURE.sub("", program)]))


def before_definition(source: str, name: str) -> str:
    """What stands in front of a function in a source text: the imports and helpers that a prompt gives."""
    tree = syntax_tree(source)
    lines = source.split("\n")
    for node in tree.body if tree is not None else ():
        if isinstance(node, _Function) and node.name == name:
            return "\n".join(lines[: _first_line(node) - 1]).strip()
    return ""


def _parse(code: str) -> ast.Module | int:
    """The tree of a program, or the line of its first error."""
    try:
        # The parser warns of escapes such as "\d"; what they stand for does not matter here, positions do.
        return ast.parse(_ESCAPE.sub("xx", code))
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, MemoryError, RecursionError):  # null bytes, nesting
        return code.count("\n") + 1


def _defines(node: ast.stmt, name: str, imports: bool = False) -> bool:
    if isinstance(node, _Import):
        return imports and name in _bound(node)
    if isinstance(node, _Assignment):
        return name in _bound(node) and name not in _loads(node)  # not `total = total(3)`
    if isinstance(node, ast.ClassDef) and node.name == "Solution":
        return any(isinstance(method, _Function) and method.name == name for method in node.body)
    if isinstance(node, ast.If | ast.Try):
        return any(isinstance(child, _Function) and child.name == name for child in ast.walk(node))
    return isinstance(node, _Function | ast.ClassDef) and node.name == name


def _bound(node: ast.stmt) -> set[str]:
    """The names that a top-level statement binds."""
    if isinstance(node, _Function | ast.ClassDef):
        return {node.name}
    names = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            names.add(child.id)
        elif isinstance(child, _Function | ast.ClassDef):
            names.add(child.name)
        elif isinstance(child, _Import):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in child.names}
    return names


def _loads(node: ast.AST) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load)}


def _used(node: ast.AST) -> set[str]:
    """The names that a statement or expression takes from outside: it reads them and does not bind them itself."""
    local, shared = set(), set()
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and not isinstance(child.ctx, ast.Load):
            local.add(child.id)
        elif isinstance(child, ast.arg):
            local.add(child.arg)
        elif isinstance(child, ast.Global):
            shared |= set(child.names)
    return (_loads(node) - local) | shared


def _helpers(blocks: Sequence[str], trees: Sequence[ast.Module | None], index: int, usage: set[ast.stmt]) -> list[str]:
    """Source of the statements of other blocks that block ``index`` needs, in their order."""
    tree = trees[index]
    assert tree is not None
    origins: dict[str, tuple[int, ast.stmt]] = {}
    for other in [*range(len(blocks) - 1, index, -1), *range(index)]:  # the nearest block before it comes last and wins
        for node in getattr(trees[other], "body", ()):
            if isinstance(node, _Definition | ast.Assign | ast.AnnAssign):
                origins.update(dict.fromkeys(_bound(node), (other, node)))
    known = {name for node in tree.body for name in _bound(node)} | _BUILTINS
    missing = {name for node in tree.body if node not in usage for name in _used(node)} - known
    if not missing <= origins.keys() and "*" in origins:
        missing.add("*")
    chosen: dict[ast.stmt, int] = {}
    while missing:
        name = missing.pop()
        known.add(name)
        other, node = origins.get(name, (0, None))
        if node is not None and node not in chosen:
            chosen[node] = other
            missing |= _used(node) - known
    ordered = sorted(chosen, key=lambda node: (chosen[node], node.lineno))
    return [_source(blocks[chosen[node]], node) for node in ordered]


def _usage(body: Sequence[ast.stmt], entry_point: str, imports: bool) -> set[ast.stmt]:
    """The statements behind the last definition of the entry point that only use it."""
    last = max(i for i, node in enumerate(body) if _defines(node, entry_point, imports))
    needed = _reachable(body, entry_point)
    return {node for node in body[last + 1 :] if not _is_part(node, needed)}


def _without(code: str, body: Sequence[ast.stmt], dropped: set[ast.stmt]) -> str:
    if not dropped:
        return code
    kept_lines = {number for node in body if node not in dropped for number in _line_numbers(node)}
    blank = {number for node in dropped for number in _line_numbers(node)} - kept_lines
    lines = ["" if number in blank else line for number, line in enumerate(code.split("\n"), start=1)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _reachable(body: Sequence[ast.stmt], entry_point: str) -> set[str]:
    """The names that the entry point needs, directly or through others."""
    uses: dict[str, set[str]] = {}
    for node in body:
        if isinstance(node, _Definition | _Assignment):
            for name in _bound(node):
                uses.setdefault(name, set()).update(_used(node))
    needed: set[str] = set()
    new = {entry_point, "Solution"}
    while new:
        needed |= new
        new = {used for name in new for used in uses.get(name, ())} - needed
    return needed


def _is_part(node: ast.stmt, needed: set[str]) -> bool:
    """Whether a statement behind the definition may be more than a use of it."""
    if isinstance(node, _Definition) or _is_main_guard(node):
        return True  # a definition does nothing by itself, and the guard is never true
    return not needed.isdisjoint(_bound(node) | _changed(node)) or _sets_recursion_limit(node)


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and not node.orelse and "__name__" in _used(node.test)


def _changed(node: ast.stmt) -> set[str]:
    """The names whose objects a statement changes: ``memo[0] = 1``, ``table.append(1)``."""
    stores = [child for child in ast.walk(node) if isinstance(child, ast.Attribute | ast.Subscript)]
    changed: set[ast.expr] = {child for child in stores if isinstance(child.ctx, ast.Store)}
    for child in ast.walk(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            changed.add(child.value.func)
    return {_root(child) for child in changed if isinstance(child, ast.Attribute | ast.Subscript)}


def _sets_recursion_limit(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and any(
        "setrecursionlimit" in (getattr(child, "id", ""), getattr(child, "attr", "")) for child in ast.walk(node)
    )


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _source(code: str, node: ast.stmt) -> str:
    return "\n".join(code.split("\n")[_first_line(node) - 1 : node.end_lineno])


def _line_numbers(node: ast.stmt) -> range:
    return range(_first_line(node), (node.end_lineno or node.lineno) + 1)


def _first_line(node: ast.stmt) -> int:
    decorators: Iterable[ast.expr] = getattr(node, "decorator_list", ())
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])
