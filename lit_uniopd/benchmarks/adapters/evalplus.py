"""HumanEval+ and MBPP+: calls and expected results from the rows, checked before anything is graded by them."""

import hashlib
import json
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lit_uniopd.benchmarks.adapters.base import Adapted, AdapterContext
from lit_uniopd.benchmarks.adapters.columns import question_chat
from lit_uniopd.benchmarks.adapters.evalplus_rows import EvalPlusRow, RowError, integers_of_any_size, read_row, row_id
from lit_uniopd.benchmarks.spec import BenchmarkSpec, Example
from lit_uniopd.rewards.code import (
    CALL_LIMIT_S,
    REFERENCE_FACTOR,
    FunctionTask,
    accepts,
    check_sandbox,
    program_slots,
)
from lit_uniopd.rewards.tagged import dump_tagged, load_tagged
from lit_uniopd.sandbox import CallResult, Foreign, Sandbox
from lit_uniopd.utils.progress import progress_bar

log = logging.getLogger(__name__)

VERSION = 2
"""Raised when checked rows would come out differently; older cache files are then ignored."""
LONGEST_RESULT = 1 << 20
"""Characters; calls whose computed result is longer are skipped."""
_SOLUTION_S = 60.0
"""Wall time of one call of a reference solution."""


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """A row whose reference solution passes and whose stubs fail."""

    question: str
    task: FunctionTask
    dropped: int
    """Number of calls that are skipped, because their results are too long."""

    @property
    def time_limit(self) -> float:
        return max(CALL_LIMIT_S, round(REFERENCE_FACTOR * self.task.reference_seconds, 1))


def evalplus(rows: Sequence[Mapping[str, Any]], spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """Examples of the rows that can be trusted.

    A row is left out, and counted by reason, if its test is not understood, if its reference solution fails, or if a
    stub passes (one that returns None, its first argument, or raises). Checked rows are cached by content.

    Raises:
        UserError: if there is no sandbox to run reference solutions in.
    """
    sandbox = check_sandbox()
    cache = context.cache_dir / "evalplus"

    def check_row(row: Mapping[str, Any]) -> CheckedRow | RowError:
        try:
            return _load_or_check(row, sandbox, cache)
        except RowError as error:
            return error

    with (
        integers_of_any_size(),
        ThreadPoolExecutor(program_slots()) as threads,
        progress_bar(len(rows), f"checking the tests of {spec.id}") as bar,
    ):
        outcomes: list[CheckedRow | RowError] = []
        for outcome in threads.map(check_row, rows):
            outcomes.append(outcome)
            bar.update()
    examples: list[Example] = []
    reasons: dict[str, list[str]] = defaultdict(list)
    for row, outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, RowError):
            reasons[str(outcome)].append(row_id(row))
        else:
            examples.append(_example(row_id(row), outcome, spec))
    dropped = [outcome.dropped for outcome in outcomes if isinstance(outcome, CheckedRow) and outcome.dropped]
    if dropped:
        log.info(
            "%s: %d call(s) of %d row(s) are not made, since their results are too long.",
            spec.id, sum(dropped), len(dropped),
        )  # fmt: skip
    for reason, ids in reasons.items():
        log.warning("%s: %d row(s) are not scored, since %s: %s.", spec.id, len(ids), reason, ", ".join(ids))
    return Adapted(examples, {reason: len(ids) for reason, ids in reasons.items()})


def _example(id: str, checked: CheckedRow, spec: BenchmarkSpec) -> Example:
    # Without times: they depend on the machine, and the hash of a gold answer must not.
    gold = {f.name: getattr(checked.task, f.name) for f in fields(checked.task) if f.name != "reference_seconds"}
    return Example(
        id=id,
        messages=question_chat(spec.prompt, checked.question.strip()),
        gold={"tagged": dump_tagged(gold)},
        group=id,
        options={"time_limit": checked.time_limit},
    )


def _load_or_check(row: Mapping[str, Any], sandbox: Sandbox, cache: Path) -> CheckedRow:
    """A checked row, from the cache if its content was checked before.

    Raises:
        RowError: if it is not to be trusted.
    """
    content = json.dumps([VERSION, sorted(row.items())], default=str)
    path = cache / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"
    try:
        question, task, dropped = load_tagged(path.read_text())
        return CheckedRow(question, FunctionTask(**task), dropped)
    except (OSError, ValueError, TypeError):  # not there, or torn
        pass
    checked = _check(read_row(row, sandbox), sandbox)
    task = {f.name: getattr(checked.task, f.name) for f in fields(checked.task)}
    _write(path, dump_tagged([checked.question, task, checked.dropped]))
    return checked


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")  # ranks may share the cache
    scratch.write_text(text)
    scratch.replace(path)


def _check(row: EvalPlusRow, sandbox: Sandbox) -> CheckedRow:
    results = _solve(row, sandbox)
    indices = [i for i, result in enumerate(results) if row.results is not None or not _is_too_long(result)]
    task = FunctionTask(
        entry_point=row.entry_point,
        calls=[row.inputs[i] for i in indices],
        expected=[_plain(results[i]) if row.results is None else row.results[i] for i in indices],
        prelude=row.prelude,
        atol=row.atol,
        oracle=row.oracle,
        reference_seconds=max((results[i].seconds for i in indices), default=0.0),
    )
    if not all(accepts(task, number, results[i]) for number, i in enumerate(indices)):
        raise RowError("its reference solution fails")
    if any(_passes(task, stub) for stub in _STUBS):
        raise RowError("a stub passes")
    return CheckedRow(row.question, task, len(results) - len(indices))


def _solve(row: EvalPlusRow, sandbox: Sandbox) -> list[CallResult]:
    try:
        calls = sandbox.calls(row.solution, row.entry_point, row.inputs, timeout=_SOLUTION_S)
        with closing(calls) as running:  # type: ignore[type-var]  # a generator
            results = list(running)
    except ValueError as error:
        raise RowError("its inputs are no plain data") from error
    if len(results) < len(row.inputs):
        raise RowError("its reference solution fails")
    return results


def _plain(result: CallResult) -> Any:
    return result.value.value if isinstance(result.value, Foreign) else result.value


def _is_too_long(result: CallResult) -> bool:
    return result.status == "output" or (result.status == "ok" and len(dump_tagged(_plain(result))) > LONGEST_RESULT)


_STUBS: tuple[Callable[[Sequence[Any]], Any], ...] = (
    lambda arguments: None,
    lambda arguments: arguments[0] if arguments else None,
)
"""Programs that must fail. One that raises fails every call, so it passes only where there is none, as these do."""


def _passes(task: FunctionTask, stub: Callable[[Sequence[Any]], Any]) -> bool:
    return all(task.accepts(i, stub(arguments)) for i, arguments in enumerate(task.calls))
