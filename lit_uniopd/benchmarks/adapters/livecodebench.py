"""LiveCodeBench: problems of programming contests, answered by a whole program or by a function."""

import base64
import binascii
import io
import json
import logging
import pickle
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from lit_uniopd.benchmarks.adapters.base import Adapted, AdapterContext
from lit_uniopd.benchmarks.adapters.columns import question_chat
from lit_uniopd.benchmarks.spec import BenchmarkSpec, Example
from lit_uniopd.rewards.code_labels import PRELUDE, prelude_of

log = logging.getLogger(__name__)

MAX_TESTS_BYTES = 1 << 30
"""Unpacked private tests of one problem."""


class _NoGlobals(pickle.Unpickler):
    """Reads text and numbers; whatever would import or call is refused."""

    def find_class(self, module: str, name: str, /) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in private tests")

    def persistent_load(self, pid: Any, /) -> Any:
        raise pickle.UnpicklingError("references are not allowed in private tests")


def livecodebench(rows: Sequence[Mapping[str, Any]], spec: BenchmarkSpec, context: AdapterContext) -> Adapted:
    """Examples with the public and the private tests; the starter code is not shown, as in the official protocol.

    A row is left out, and counted by reason, if its tests cannot be decoded or if it has none.
    """
    examples: list[Example] = []
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        try:
            grader, gold = _gold(row)
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            log.warning("%s: the tests of %s cannot be decoded: %s", spec.id, row["question_id"], error)
            reasons["its tests cannot be decoded"].append(row["question_id"])
            continue
        if not gold.get("tests") and not gold.get("calls"):
            reasons["it has no tests"].append(row["question_id"])
            continue
        examples.append(_example(row, spec, grader, gold))
    for reason, ids in reasons.items():
        log.warning("%s: %d row(s) are not scored, since %s: %s.", spec.id, len(ids), reason, ", ".join(ids))
    return Adapted(examples, {reason: len(ids) for reason, ids in reasons.items()})


def _example(row: Mapping[str, Any], spec: BenchmarkSpec, grader: str, gold: dict[str, Any]) -> Example:
    return Example(
        id=str(row["question_id"]),
        messages=question_chat(spec.prompt, row["question_content"]),
        gold=gold,
        group=str(row["question_id"]),
        options={"equality": "lcb", "time_limit": 60.0} if grader == "code_functional" else {},
        breakdown={"difficulty": str(row["difficulty"]), "platform": str(row["platform"])},
        grader=grader,
    )


def _gold(row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the grader and what it compares with."""
    tests = [*json.loads(row["public_test_cases"]), *private_tests(row["private_test_cases"])]
    name = json.loads(row["metadata"]).get("func_name")
    if not name:
        pairs = [{"stdin": test["input"], "stdout": test["output"]} for test in tests]
        return "code_stdio", {"tests": pairs, "prelude": PRELUDE}
    # One argument a line.
    calls = [[json.loads(line) for line in test["input"].split("\n") if line.strip()] for test in tests]
    expected = [json.loads(test["output"]) for test in tests]
    return "code_functional", {
        "entry_point": name,
        "calls": calls,
        "expected": expected,
        "prelude": prelude_of(name),
    }


def private_tests(text: str) -> list[dict[str, Any]]:
    """The private tests of a row: JSON, or JSON pickled, compressed and in base64.

    Raises:
        ValueError, TypeError, zlib.error: if they are neither, or too long.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        packed = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
    stream = zlib.decompressobj()
    data = stream.decompress(packed, MAX_TESTS_BYTES)
    if not stream.eof:
        raise ValueError("too long, or cut")
    try:
        tests = _NoGlobals(io.BytesIO(data)).load()
    except Exception as error:  # whatever a broken pickle raises
        raise ValueError(f"not a pickle of plain data: {error}") from error
    return json.loads(tests)
