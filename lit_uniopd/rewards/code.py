"""Graders of programs: they run in a sandbox that sees inputs only, and results are compared here.

An answer is right if every call or test gives the expected result. A program that raises, ends early, runs out of time,
uses too much memory, or returns what equals no plain data is wrong. Only a failure of the sandbox itself leaves the
outcome unknown. What this process takes in and compares is bounded by the size of the expected results, so that a
hostile program costs its time limit, once, and no time here.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lit_uniopd.errors import UserError
from lit_uniopd.grade import Grade
from lit_uniopd.rewards.definitions import after_prelude
from lit_uniopd.rewards.equality import equal_evalplus, equal_lcb, equal_stdio
from lit_uniopd.rewards.grade import failed, unknown
from lit_uniopd.rewards.oracles import ORACLES
from lit_uniopd.rewards.program import extract_program
from lit_uniopd.rewards.tagged import load_tagged
from lit_uniopd.rewards.text import strip_reasoning
from lit_uniopd.sandbox.child.encoding import Foreign, encode

if TYPE_CHECKING:
    from lit_uniopd.sandbox import CallResult, Sandbox, SandboxArgs

Verdict = Literal["ok", "wrong", "timeout"]

CALL_LIMIT_S = 10.0
"""Least wall time of one call: a busy machine must not turn right programs into wrong ones."""
REFERENCE_FACTOR = 8.0
"""A call may take this many times as long as the reference solution's slowest call."""
CALLS_IN_ALL = 6.0
"""All calls or tests of an answer together may take this many times the limit of one by default: a minute at least, as
in EvalPlus."""
STDIO_LIMIT_S = 60.0
_RESULT_FACTOR, _RESULT_BYTES = 32, 1 << 16
"""A result that equals the expected one has at most so many times its bytes (1+0j and True), and some to spare for
repetitions where only the set counts."""

_LONGEST_GOLD = 1 << 30
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FunctionTask:
    """The gold answer of a task that asks for a function."""

    entry_point: str
    calls: Sequence[Sequence[Any]]
    """Positional arguments of each call."""
    expected: Sequence[Any]
    """Result of each call."""
    prelude: str = ""
    """Code that runs before the program: imports that it may rely on."""
    atol: float = 0.0
    """The task's own absolute tolerance; 0: that of the equality rule."""
    oracle: str | None = None
    """Key of ``ORACLES``, for tasks with several right answers."""
    reference_seconds: float = 0.0
    """Slowest call of the reference solution, on this machine."""

    def __post_init__(self) -> None:
        if len(self.calls) != len(self.expected):
            raise ValueError(f"gold has {len(self.calls)} calls and {len(self.expected)} expected results")
        if self.oracle is not None and self.oracle not in ORACLES:
            raise ValueError(f"oracle must be one of {', '.join(ORACLES)}, not {self.oracle!r}")

    def limit(self, least: float) -> float:
        """Wall seconds of one call."""
        return max(least, REFERENCE_FACTOR * self.reference_seconds)

    def result_bytes(self) -> list[int]:
        """Most bytes of an encoded result of each call that can be right."""
        return [_RESULT_FACTOR * len(encode(value, _LONGEST_GOLD)) + _RESULT_BYTES for value in self.expected]

    def accepts(self, index: int, actual: Any, equality: str = "evalplus") -> bool:
        """Whether ``actual`` is a right result of call ``index``."""
        expected = self.expected[index]
        if self.oracle is not None:
            return ORACLES[self.oracle](self.calls[index], expected, actual, self.atol)
        return equal_lcb(expected, actual) if equality == "lcb" else equal_evalplus(expected, actual, self.atol)


class SandboxFailure(Exception):
    """The sandbox could not run a program; this says nothing about the program."""


def check_sandbox(args: "SandboxArgs | None" = None) -> "Sandbox":
    """A sandbox that has proved itself on this machine.

    Raises:
        UserError: with the remedy, if no sandbox works here.
    """
    from lit_uniopd.sandbox import Sandbox

    sandbox = Sandbox(args)
    _ = sandbox.backend
    return sandbox


def program_slots() -> int:
    """How many programs may run at once: one core is left to this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


def grade_code_functional(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    equality: Literal["evalplus", "lcb"] = "evalplus",
    time_limit: float = CALL_LIMIT_S,
    time_budget: float | None = None,
    sandbox: "Sandbox | None" = None,
) -> Grade:
    """Call the function that a response defines and compare what it returns.

    Args:
        gold: The fields of `FunctionTask`, as a mapping, as JSON text, or as ``{"tagged": text}`` with the text that
            `lit_uniopd.rewards.tagged` makes of such a mapping. Without calls there is no verdict.
        prediction: The response; `extract_program` finds the program that defines the function. Thinking that never
            ends is reason ``truncated``, no program is ``no_answer``, a time-out ``timeout``, and all are wrong.
        row: Not used.
        equality: Rule of `lit_uniopd.rewards.equality`.
        time_limit: Wall seconds per call; slow reference solutions raise it.
        time_budget: Wall seconds of all calls together; None: `CALLS_IN_ALL` times the limit of one.
        sandbox: Where to run; None: the best one of this machine.

    Raises:
        ValueError, TypeError, KeyError: if the gold answer is malformed.
    """
    if equality not in ("evalplus", "lcb"):
        raise ValueError(f"equality must be evalplus or lcb, not {equality!r}")
    fields = _gold_fields(gold)
    if not fields.get("calls"):
        return unknown("no_gold")
    task = FunctionTask(**fields)

    limit = task.limit(time_limit)

    def run(program: str, sandbox: "Sandbox") -> Verdict:
        budget = time_budget or CALLS_IN_ALL * limit
        return _call(sandbox, after_prelude(task.prelude, program), task, limit, budget, equality)

    return _grade("code_functional", extract_program(prediction, task.entry_point), prediction, run, sandbox)


def grade_code_stdio(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    time_limit: float = STDIO_LIMIT_S,
    time_budget: float | None = None,
    sandbox: "Sandbox | None" = None,
) -> Grade:
    """Run the program of a response on each standard input and compare what it prints.

    Args:
        gold: ``{"tests": [{"stdin": ..., "stdout": ...}, ...]}``, or the same as JSON text; ``prelude`` as in
            `FunctionTask`. Without tests there is no verdict.
        prediction: As for `grade_code_functional`.
        row: Not used.
        time_limit: Wall seconds per test.
        time_budget: Wall seconds of all tests together; None: `CALLS_IN_ALL` times the limit of one.
        sandbox: Where to run; None: the best one of this machine.

    Raises:
        ValueError, TypeError, KeyError: if the gold answer is malformed.
    """
    fields = _gold_fields(gold)
    tests = [(test["stdin"], test["stdout"]) for test in fields.get("tests") or ()]
    prelude = fields.get("prelude", "")
    if not tests:
        return unknown("no_gold")

    def run(program: str, sandbox: "Sandbox") -> Verdict:
        return _run(
            sandbox, after_prelude(prelude, program), tests, time_limit, time_budget or CALLS_IN_ALL * time_limit
        )

    return _grade("code_stdio", extract_program(prediction), prediction, run, sandbox)


def _gold_fields(gold: Any) -> dict[str, Any]:
    if gold is None or gold == "":
        return {}
    # Tables cannot hold arguments of mixed types: there, gold answers are JSON.
    fields = json.loads(gold) if isinstance(gold, str) else gold
    if not isinstance(fields, Mapping):
        raise TypeError(f"a program's gold answer must be a mapping or JSON text of one, not {type(fields).__name__}")
    return load_tagged(fields["tagged"]) if set(fields) == {"tagged"} else dict(fields)


def _grade(
    name: str,
    program: str | None,
    prediction: str,
    run: Callable[[str, "Sandbox"], Verdict],
    sandbox: "Sandbox | None",
) -> Grade:
    if program is None:
        truncated = strip_reasoning(prediction, inline=False) is None
        return Grade(False, 0.0, reason="truncated" if truncated else "no_answer")
    try:
        sandbox = sandbox or check_sandbox()
    except UserError as error:
        _log.warning("A program was not run: %s", error)
        return unknown("unsafe")
    try:
        verdict = run(program, sandbox)
    except SandboxFailure as error:
        return failed(name, type(error).__name__, str(error))
    return Grade(verdict == "ok", float(verdict == "ok"), program, verdict)


def _call(sandbox: "Sandbox", program: str, task: FunctionTask, limit: float, budget: float, equality: str) -> Verdict:
    right = 0
    results = sandbox.calls(
        program, task.entry_point, task.calls, timeout=limit, budget=budget, result_bytes=task.result_bytes()
    )
    with closing(results):  # type: ignore[type-var]
        for index, result in enumerate(results):
            if result.status == "error":
                raise SandboxFailure(result.message)
            if result.status == "timeout":
                return "timeout"
            if not accepts(task, index, result, equality):
                return "wrong"
            right += 1
    return "ok" if right == len(task.calls) else "wrong"


def accepts(task: FunctionTask, index: int, result: "CallResult", equality: str = "evalplus") -> bool:
    """Whether call ``index`` gave a right result."""
    foreign = result.status in ("not_plain", "output") or isinstance(result.value, Foreign)
    if task.oracle == "found" and foreign:  # a match object is not plain data, but neither is it None
        return task.accepts(index, True)
    return result.status == "ok" and task.accepts(index, result.value, equality)


def _run(sandbox: "Sandbox", program: str, tests: Sequence[tuple[str, str]], limit: float, budget: float) -> Verdict:
    deadline = time.monotonic() + budget
    for stdin, expected in tests:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return "timeout"
        result = sandbox.stdio(program, stdin, timeout=min(limit, remaining))
        if result.status == "error":
            raise SandboxFailure(result.message)
        if result.status == "timeout":
            return "timeout"
        if result.status != "ok" or not equal_stdio(expected, result.stdout):
            return "wrong"
    return "ok"
