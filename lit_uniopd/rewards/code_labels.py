"""Labels of code problems as data sets publish them, and what our graders of programs make of them.

PRIME's (Eurus-2-RL, and with it Uni-OPD's code), APPS' and TACO's: ``inputs``, ``outputs`` and, where a function is
asked for, ``fn_name``, as a mapping or as JSON text of one.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.code import grade_code_functional, grade_code_stdio
from lit_uniopd.rewards.grade import unknown

if TYPE_CHECKING:
    from lit_uniopd.sandbox import Sandbox

_STAR_IMPORTS = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
PRELUDE = "\n".join(
    [
        *(f"from {name} import *" for name in _STAR_IMPORTS),
        *(f"import {name}" for name in _STAR_IMPORTS if name not in ("builtins", "typing")),
        "sys.setrecursionlimit(50000)",
    ]
)
"""Imports that the runners of LiveCodeBench and PRIME put before every program, so that answers may lack them."""


def prelude_of(entry_point: str) -> str:
    """`PRELUDE`, without a name that it might define: a method called `search` must not be taken for that of `re`."""
    return f"{PRELUDE}\nglobals().pop({entry_point!r}, None)"


def code_task(label: Any) -> dict[str, Any]:
    """The gold answer of `code_functional` (it has ``calls``) or `code_stdio` (it has ``tests``) in a label.

    A test of a function has one argument a line, each in JSON; where inputs and outputs are lists, they are the
    arguments and, in a list of one, the result. Standard input and output as lists are lines. JSON has texts only as
    keys, so the keys of a first argument, or of a result, that are all numbers become numbers. A result that the label
    has in a list of its own is right with and without that list.

    Args:
        label: a mapping, or JSON text of one; one in our own form is taken as it is.

    Raises:
        ValueError: if there is nothing to run: no mapping, no tests, inputs without outputs, arguments that are no
            JSON.
    """
    fields = json.loads(label) if isinstance(label, str) else label
    if not isinstance(fields, Mapping):
        raise ValueError(f"the label is {type(fields).__name__}, not a mapping of inputs and outputs")
    if fields.get("calls") or fields.get("tests"):
        return {key: value for key, value in fields.items() if value is not None}
    inputs, outputs = _listed(fields, "inputs"), _listed(fields, "outputs")
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"the label has {len(inputs)} inputs for {len(outputs)} outputs")
    if not (name := fields.get("fn_name")):
        tests = [{"stdin": _lines(given), "stdout": _lines(out)} for given, out in zip(inputs, outputs, strict=True)]
        return {"tests": tests, "prelude": PRELUDE}
    return {
        "entry_point": str(name),
        "calls": [_arguments(given) for given in inputs],
        "expected": [_result(out) for out in outputs],
        "prelude": prelude_of(str(name)),
        "oracle": "wrapped",
    }


def grade_code(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    sandbox: "Sandbox | None" = None,
    **limits: float,
) -> Grade:
    """Run the program of a response on the tests of a label: a function is called, any other program reads its input.

    Args:
        gold: As for `code_task`. None: there is no verdict.
        prediction: The response; see `grade_code_functional`.
        row: Not used.
        sandbox: Where to run; None: the best one of this machine.
        **limits: ``time_limit`` of a test and ``time_budget`` of all, in seconds.

    Raises:
        ValueError, TypeError: if the label is malformed.
    """
    if gold is None or gold in ("", {}):
        return unknown("no_gold")
    task = code_task(gold)
    if task.get("tests"):
        return grade_code_stdio(task, prediction, row, sandbox=sandbox, **limits)
    return grade_code_functional(task, prediction, row, equality="lcb", sandbox=sandbox, **limits)


def _listed(fields: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = fields.get(key)
    return value if isinstance(value, list | tuple) else []


def _lines(text: Any) -> str:
    return "\n".join(map(str, text)) if isinstance(text, list | tuple) else str(text)


def _arguments(given: Any) -> list[Any]:
    if isinstance(given, str):
        values = [json.loads(line) for line in given.split("\n") if line.strip()]
    else:
        values = list(given) if isinstance(given, list | tuple) else [given]
    return [_with_numbers(value) if i == 0 else value for i, value in enumerate(values)]


def _result(out: Any) -> Any:
    if isinstance(out, str):
        return _with_numbers(json.loads(out))
    return _with_numbers(out[0] if isinstance(out, list | tuple) and len(out) == 1 else out)


def _with_numbers(value: Any) -> Any:
    """A mapping with whole numbers for keys, where all of them are the text of one."""
    try:
        return {int(key): item for key, item in value.items()} if isinstance(value, dict) and value else value
    except ValueError:
        return value
