"""Reading the rows of HumanEval+ and MBPP+ without running their tests.

A row's ``test`` holds lists of inputs and, unless results would be too long, of results, and a loop that asserts. The
lists and the tolerance are taken from its syntax tree; its assertion helper, which is broken in several rows, is not
used. Tasks with more than one right answer get the oracles of EvalPlus.
"""

import ast
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lit_uniopd.rewards.definitions import before_definition
from lit_uniopd.sandbox import ExportError, Sandbox

_EXPORT_S = 60.0

_HUMANEVAL_ORACLES = {"find_zero": "find_zero"}
_MBPP_ORACLES = {
    "are_equivalent": "or_true",  # 164
    "sum_div": "or_zero",  # 295
    "surface_Area": "surface_area",  # 581
    "digit_distance_nums": "digit_distance",  # 558
    **dict.fromkeys(
        (
            "similar_elements",  # 2
            "find_char_long",  # 7
            "common_in_nested_lists",  # 111
            "extract_singly",  # 140
            "larg_nnum",  # 232
            "intersection_array",  # 249
            "find_dissimilar",  # 579
            "Diff",  # 769
        ),
        "set_equal",
    ),
    **dict.fromkeys(("check_str", "text_match_three", "text_starta_endb"), "found"),
}


class RowError(Exception):
    """A row cannot be used; the message is the reason under which it is counted."""


@dataclass(frozen=True, slots=True)
class EvalPlusRow:
    """One task."""

    id: str
    question: str
    """What the model is shown."""
    solution: str
    """The reference program."""
    entry_point: str
    inputs: list[list[Any]]
    """Arguments of each call, of the base and the plus tests."""
    results: list[Any] | None
    """Result of each call; None: what the reference solution returns."""
    atol: float
    oracle: str | None
    prelude: str = ""
    """What the prompt gives in front of the function: imports, and the helpers of a few tasks. EvalPlus runs the whole
    prompt before a completion, and nothing of it before the program of a chat model."""


def row_id(row: Mapping[str, Any]) -> str:
    """``HumanEval/32`` or ``Mbpp/164``."""
    task = str(row["task_id"])
    return task if "/" in task else f"Mbpp/{task}"


def read_row(row: Mapping[str, Any], sandbox: Sandbox) -> EvalPlusRow:
    """Understand a row of ``evalplus/humanevalplus`` or ``evalplus/mbppplus``.

    Args:
        row: in the schema of the hub. Read it under `integers_of_any_size`.
        sandbox: evaluates lists that are more than literals (``inf``, say).

    Raises:
        RowError: if the test has another form.
    """
    try:
        tree = ast.parse(row["test"])
    except (SyntaxError, ValueError) as error:
        raise RowError("its test cannot be parsed") from error
    lists = _lists(tree, row["test"], sandbox)
    inputs, results = lists["inputs"], lists.get("results")
    if not isinstance(inputs, list) or not all(isinstance(arguments, list | tuple) for arguments in inputs):
        raise RowError("its inputs are no lists of arguments")
    if not inputs:
        raise RowError("its test has no inputs")
    if results is not None and (not isinstance(results, list | tuple) or len(results) != len(inputs)):
        raise RowError("it has not one result for each input")
    human_eval = "canonical_solution" in row
    entry_point = row["entry_point"] if human_eval else _tested_name(tree, row)
    return EvalPlusRow(
        id=row_id(row),
        question=row["prompt"] if human_eval else _mbpp_question(row),
        solution=row["prompt"] + row["canonical_solution"] if human_eval else row["code"],
        entry_point=entry_point,
        inputs=[list(arguments) for arguments in inputs],
        results=None if results is None else list(results),
        atol=_tolerance(tree),
        oracle=(_HUMANEVAL_ORACLES if human_eval else _MBPP_ORACLES).get(entry_point),
        prelude=before_definition(row["prompt"] + "    pass\n", entry_point) if human_eval else "",
    )


def _mbpp_question(row: Mapping[str, Any]) -> str:
    """The task as EvalPlus words it: without the first assertion nobody could know the function's name."""
    return f'"""\n{row["prompt"]}\n{row["test_list"][0]}\n"""\n'


def _lists(tree: ast.Module, source: str, sandbox: Sandbox) -> dict[str, Any]:
    assignments = {
        node.targets[0].id: node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if node.targets[0].id in ("inputs", "results")
    }
    if "inputs" not in assignments:
        raise RowError("its test has no list of inputs")
    try:
        return {name: ast.literal_eval(node.value) for name, node in assignments.items()}
    except (ValueError, TypeError):  # more than literals
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        program = "\n".join(_source(source, node) for node in (*imports, *assignments.values()))
        try:
            return sandbox.export(program, list(assignments), timeout=_EXPORT_S)
        except ExportError as error:
            raise RowError("its lists are no plain data") from error


def _source(source: str, node: ast.stmt) -> str:
    return textwrap.dedent(ast.get_source_segment(source, node, padded=True) or "")


def _tolerance(tree: ast.Module) -> float:
    """The third argument of the row's ``assertion``, or what its ``assert`` compares with if it has none."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    numbers = [node.args[2] for node in calls if _is_name(node.func, "assertion") and len(node.args) == 3]
    if not numbers:
        asserts = [node.test for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        numbers = [test.comparators[0] for test in asserts if isinstance(test, ast.Compare)]
    values = [node.value for node in numbers if isinstance(node, ast.Constant)]
    return next((float(value) for value in values if isinstance(value, int | float)), 0.0)


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _tested_name(tree: ast.Module, row: Mapping[str, Any]) -> str:
    """The function of the reference program that the tests call."""
    defined = {node.name for node in ast.parse(row["code"]).body if isinstance(node, ast.FunctionDef)}
    statements = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    for statement in (*statements, *ast.parse("\n".join(row["test_list"])).body):
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
                return node.func.id
    raise RowError("its tests call no function of its reference solution")


@contextmanager
def integers_of_any_size() -> Iterator[None]:
    """Some tests hold integers of more digits than Python reads by default. The setting is that of the process."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)
