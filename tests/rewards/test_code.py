import json
import logging
import math
from collections.abc import Iterator

import pytest

from lit_uniopd.errors import UserError
from lit_uniopd.rewards import GRADERS, Grade, code
from lit_uniopd.rewards.code import check_sandbox, grade_code_functional, grade_code_stdio
from lit_uniopd.rewards.tagged import dump_tagged, load_tagged
from lit_uniopd.sandbox import CallResult, StdioResult
from lit_uniopd.sandbox.child import encoding

NAN, INF = math.nan, math.inf


def fenced(program):
    return f"So:\n```python\n{program}\n```\n"


def function(calls, expected, **more):
    return {"entry_point": "f", "calls": calls, "expected": expected, **more}


def stdio(*pairs):
    return {"tests": [{"stdin": stdin, "stdout": stdout} for stdin, stdout in pairs]}


DOUBLE = function([[1], [2], [-3]], [2, 4, -6])


@pytest.mark.parametrize(
    "program",
    [
        "def f(x):\n    return 2 * x",
        "def f(x):\n    print('noise', x)\n    return 2 * x",
        "import sys\nprint('loading')\ndef f(x):\n    sys.stderr.write('noise')\n    return x + x",
        "f = lambda x: 2.0 * x",
        "def f(x, unused=None, *more, **named):\n    return 2 * x",
        "class Solution:\n    def f(self, x):\n        return 2 * x",
        "def f(x):\n    return 0 if x == 0 else (f(x - 1) + 2 if x > 0 else -f(-x))",
        "import functools\n@functools.cache\ndef f(x):\n    return 2 * x",
        "def f(x):\n    return 2 * x\nif __name__ == '__main__':\n    raise SystemExit(f(int(input())))",
        "def helper(x):\n    return x\ndef f(x):\n    return helper(x) * 2\ndef check(candidate):\n    assert False",
        "x = 2\ndef f(y):\n    global x\n    x = 2\n    return x * y",
        "import sys\nsys.setrecursionlimit(10**5)\ndef g(n):\n    return n and 1 + g(n - 1)\ndef f(x):\n    return 2 * x + g(3000) - 3000",
        "from __future__ import annotations\ndef f(x: Unknown) -> Missing:\n    return x * 2",
        "import numpy as np\ndef f(x):\n    return int(np.array([x, x]).sum())",
        "def f(x):\n    try:\n        raise ValueError\n    except ValueError:\n        return 2 * x",
    ],
)
def test_right_functions(program):
    grade = GRADERS["code_functional"](DOUBLE, fenced(program))
    assert grade == Grade(True, 1.0, program + "\n", "ok")


@pytest.mark.parametrize(
    "program",
    [
        "def f(x):\n    return 2 * x + 1",
        "def f(x):\n    return x",
        "def f(x):\n    return None",
        "def f(x):\n    print(2 * x)",
        "def f(x):\n    return str(2 * x)",
        "def f(x):\n    return 2 * abs(x)",
        "def f(x):\n    raise ValueError",
        "def f(x):\n    return [2 * x]",
        "def f(x):\n    yield 2 * x",
        "def f():\n    return 2",
        "def f(x, y):\n    return 2 * x",
        "def g(x):\n    return 2 * x",
        "f = 2",
        "def f(x) return 2 * x",
        "import nothing_of_this_name\ndef f(x):\n    return 2 * x",
        "1 / 0\ndef f(x):\n    return 2 * x",
        "import sys\nsys.exit(0)",
        "import sys\ndef f(x):\n    sys.exit(0)",
        "import os\ndef f(x):\n    os._exit(0)",
        "def f(x):\n    return f(x)",
        "class Any:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\ndef f(x):\n    return Any()",
        "class Int(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\ndef f(x):\n    return Int(0)",
        "def f(x):\n    return 10 ** 10 ** 6",
        "def f(x):\n    return [0] * 10 ** 10",
        "x = []\nx.append(x)\ndef f(y):\n    return x",
        "async def f(x):\n    return 2 * x",
        "import sys\ndef f(x):\n    for frame in sys._current_frames().values():\n        for name in ('expected', 'task', 'gold'):\n            if name in frame.f_locals:\n                return frame.f_locals[name][0]\n    return 0",
    ],
)
def test_wrong_functions(program):
    grade = GRADERS["code_functional"](DOUBLE, fenced(program))
    assert grade == Grade(False, 0.0, program + "\n", "wrong")


@pytest.mark.parametrize(
    ("body", "expected", "correct"),
    [
        ("return {1, 2}", {1, 2}, True),
        ("return {'a': [1, (2,)]}", {"a": [1, (2,)]}, True),
        ("return {'a': [1, [2]]}", {"a": [1, (2,)]}, False),
        ("from collections import Counter\n    return Counter('aab')", {"a": 2, "b": 1}, True),
        ("return (1, 2)", [1, 2], False),
        ("return [1, 2]", (1, 2), False),
        ("return [1, 2]", [1, 2], True),
        ("return 0.1 + 0.2", 0.3, True),
        ("return [0.1 + 0.2, 1]", [0.3, 1.0], True),
        ("return 0.31", 0.3, False),
        ("return float('nan')", NAN, False),
        ("return float('inf')", INF, True),
        ("return 3.0", 3, True),
        ("return True", 1, True),
        ("return 'ß\\u2028\\ud800'", "ß\u2028\ud800", True),
        ("return b'a'", b"a", True),
        ("return None", None, True),
        ("pass", None, True),
        ("return None", 0, False),
        ("return [10 ** 6000]", [10**6000], True),
        ("return range(2)", [0, 1], False),
        ("return (x for x in [0, 1])", [0, 1], False),
        ("return map(str, [0])", ["0"], False),
        ("import numpy\n    return numpy.int64(3)", 3, True),
        ("import numpy\n    return (numpy.array([1, 2]) > 0).all()", True, True),
        ("import numpy\n    return numpy.float32(0.1)", 0.1, True),
        ("import numpy\n    return numpy.array([1, 2])", [1, 2], False),
        ("import numpy\n    return [numpy.int8(1), {2: numpy.True_}]", [1, {2: True}], True),
        ("import collections\n    return collections.namedtuple('P', 'x y')(1, 2)", (1, 2), True),
        ("import fractions\n    return fractions.Fraction(6, 2), fractions.Fraction(1, 4)", (3, 0.25), True),
        ("import fractions\n    return fractions.Fraction(1, 3)", 1 / 3, False),
        ("import decimal\n    return decimal.Decimal('0.5')", 0.5, True),
        ("import enum\n    return enum.IntEnum('E', 'A B')(2)", 2, True),
        ("import enum\n    return enum.Enum('E', 'A B')(2)", 2, False),
        ("return {1: 2}.keys()", {1}, True),
        ("return list(range(300_000))", list(range(300_000)), True),
    ],
)
def test_results(body, expected, correct):
    grade = GRADERS["code_functional"](function([[]], [expected]), fenced(f"def f():\n    {body}"))
    assert (grade.correct, grade.reason) == (correct, "ok" if correct else "wrong")


@pytest.mark.parametrize(
    ("program", "equality", "correct"),
    [
        ("def f(x):\n    return tuple(x)", "lcb", True),
        ("def f(x):\n    return tuple(x)", "evalplus", False),
        ("def f(x):\n    return [y + 1e-9 for y in x]", "evalplus", True),
        ("def f(x):\n    return [y + 1e-9 for y in x]", "lcb", False),
    ],
)
def test_equality_rules(program, equality, correct):
    gold = function([[[0.5]]], [[0.5]])
    assert GRADERS["code_functional"](gold, fenced(program), equality=equality).correct is correct


def test_arguments_are_copies():
    program = "seen = []\ndef f(x):\n    x.append(1)\n    seen.append(x)\n    return len(x)"
    shared = [0]
    gold = function([[shared], [shared]], [2, 2])
    assert GRADERS["code_functional"](gold, fenced(program)).correct is True
    assert shared == [0]


def test_several_arguments_and_gold_forms():
    gold = function([[1, (2, 3)], [4, (5,)]], [(1, 2, 3), (4, 5)], atol=0.0, oracle=None, reference_seconds=0.01)
    response = fenced("def f(a, b):\n    assert type(b) is tuple\n    return (a, *b)")
    assert GRADERS["code_functional"](gold, response).correct is True
    assert GRADERS["code_functional"]({"tagged": dump_tagged(gold)}, response).correct is True
    text = json.dumps(function([[1, [2]]], [[1, 2]]))
    assert GRADERS["code_functional"](text, fenced("def f(a, b):\n    return [a] + b")).correct is True
    assert GRADERS["code_stdio"](json.dumps(stdio(("1", "1"))), fenced("print(input())")).correct is True


def test_oracles_and_tolerances():
    gold = function([[[-6, 11, -6, 1]]], [1.0], oracle="find_zero", atol=1e-4)
    assert GRADERS["code_functional"](gold, fenced("def f(x):\n    return 2.00001")).correct is True
    assert GRADERS["code_functional"](gold, fenced("def f(x):\n    return 2.1")).correct is False
    match = fenced("import re\ndef f(x):\n    return re.search('a', x)")
    gold = function([["ab"], ["b"]], [True, False], oracle="found")
    assert GRADERS["code_functional"](gold, match).correct is True
    gold = function([["ab"], ["b"]], [True, True], oracle="found")
    assert GRADERS["code_functional"](gold, match).correct is False
    gold = function([[]], [1.0], atol=0.5)
    assert GRADERS["code_functional"](gold, fenced("def f():\n    return 1.4")).correct is True


def test_prelude_goes_first():
    gold = function([[[1]]], [1], prelude="from typing import *")
    program = "from __future__ import annotations\nclass Solution:\n    def f(self, x: List[int]) -> Optional[int]:\n        return cast(int, x[0])"
    grade = GRADERS["code_functional"](gold, fenced(program))
    assert (grade.correct, grade.extracted) == (True, program + "\n")
    gold = {**stdio(("4", "2")), "prelude": "from math import *"}
    assert GRADERS["code_stdio"](gold, fenced("print(isqrt(int(input())))")).correct is True


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "no_answer"),
        ("I do not know.", "no_answer"),
        ("print(1)", "no_answer"),
        ("<think>```python\ndef f(x):\n    return 2 * x\n```", "truncated"),
        ("```python\ndef f(x", "no_answer"),
        ("def f(x):\n    return 2 * x", "ok"),
        ("```\ndef f(x):\n    return 2 * x\n```", "ok"),
        ("```python\ndef f(x):\n    return 2 * x", "ok"),
        ("```python\ndef f(x):\n    return x\n```\n```python\ndef f(x):\n    return 2 * x\n```", "ok"),
        ("```python\ndef f(x):\n    return 2 * x\n```\n```python\ndef f(x):\n    return x\n```", "wrong"),
        ("```python\ndef f(x):\n    return 2 * x\n```\n```\n>>> f(1)\n2\n```", "ok"),
        (
            "<think>\n```python\ndef f(x):\n    return x\n```\n</think>\n```python\ndef f(x):\n    return 2 * x\n```",
            "ok",
        ),
        ("<think>\n```python\ndef f(x):\n    return 2 * x\n```\n</think>\nDone.", "no_answer"),
    ],
)
def test_responses(response, reason):
    grade = GRADERS["code_functional"](DOUBLE, response)
    assert (grade.correct, grade.reason) == (reason == "ok", reason)


@pytest.mark.parametrize(
    "response",
    [
        fenced("def f(x):\n    return 2 * x") + "Usage:\n" + fenced("print(f(int(input())))"),
        fenced("def f(x):\n    return 2 * x") + "Tests:\n" + fenced("from solution import f\nassert f(1) == 3"),
        fenced("def f(x):\n    return 2 * x\nassert f(1) == 3\nn = int(input())\nprint(f(n))"),
        fenced("import math")
        + fenced("def double(x):\n    return math.prod([2, x])")
        + fenced("def f(x):\n    return double(x)"),
        fenced("def f(x):\n    return double(x)")
        + "with"
        + fenced("def double(x):\n    return 2 * x\nprint(double(input()))"),
        "[PYTHON]\ndef f(x):\n    return 2 * x\n[/PYTHON]\n[TESTS]\nassert f(1) == 3\n[/TESTS]",
        "[BEGIN]\ndef f(x):\n    return 2 * x\n[DONE]",
        "```python def f(x): return 2 * x ```",
        "Sure! Here it is:\n\ndef f(x):\n    return 2 * x\n\nThis doubles the number.",
        "import math\n\nNow:\n\ndef f(x):\n    return math.prod([2, x])\n\nNote: simple\n>>> f(1)\n2",
    ],
)
def test_the_program_that_defines_the_function_is_run(response):
    assert GRADERS["code_functional"](DOUBLE, response).reason == "ok"


def test_statements_that_the_function_needs_stay():
    program = (
        "import functools, sys\nmemo = {}\ndef f(x):\n    return memo.get(x, 2 * x)\nmemo[1] = 2\nfor i in range(2):\n"
        "    memo[i] = 2 * i\nf = functools.cache(f)\nsys.setrecursionlimit(10**6)\n"
    )
    assert GRADERS["code_functional"](DOUBLE, fenced(program + "print(f(5))")).extracted == program


READ = "n, *rest = open(0).read().split()"


@pytest.mark.parametrize(
    ("program", "correct"),
    [
        ("print(sum(map(int, input().split())))", True),
        ("import sys\nprint(sum(int(x) for x in sys.stdin.read().split()))", True),
        ("import sys\nprint(sum(int(x) for x in sys.stdin.buffer.read().split()))", True),
        ("print(sum(map(int, open(0).read().split())))", True),
        ("import os\nprint(sum(map(int, os.read(0, 100).split())))", True),
        ("import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))", True),
        ("def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()", True),
        (
            "total = 0\ndef add(x):\n    global total\n    total += x\nfor x in input().split():\n    add(int(x))\nprint(total)",
            True,
        ),
        ("print(sum(map(int, input().split())), '\\n\\n  ')", True),
        ("print('\\n', float(sum(map(int, input().split()))))", True),
        ("import sys\nprint(sum(map(int, input().split())))\nsys.exit(0)", True),
        ("import sys\nprint(sum(map(int, input().split())), file=sys.stdout)\nprint('noise', file=sys.stderr)", True),
        (
            "import threading\nt = threading.Thread(target=lambda: print(sum(map(int, input().split()))))\nt.start()\nt.join()",
            True,
        ),
        ("print(sum(map(int, input().split())))\nprint('extra')", False),
        ("print('The sum:', sum(map(int, input().split())))", False),
        ("import sys\nprint(sum(map(int, input().split())))\nsys.exit(1)", False),
        ("print(sum(map(int, input().split())))\nraise ValueError", False),
        ("import os, sys\nprint(sum(map(int, input().split())))\nsys.stdout.flush()\nos.abort()", False),
        ("print(6)", False),
        ("pass", False),
        ("input()\ninput()", False),
        ("print(sum(map(int, input().split()))", False),
        ("def f(a):\n    return sum(a)", False),
        ("print('x' * 10**8)", False),
    ],
)
def test_programs(program, correct):
    grade = GRADERS["code_stdio"](stdio(("1 2 3\n", "6\n"), ("-1 1\n", "0\n")), fenced(program))
    assert grade == Grade(correct, float(correct), program + "\n", "ok" if correct else "wrong")


@pytest.mark.parametrize(
    ("expected", "printed", "correct"),
    [
        ("1\n2\n", "1 \n2", True), ("1\n2\n", "1\n\n2", False), ("0.5", "0.50", True), ("3", "3.0", True),
        ("0.3", "0.30000001", False), ("YES", "yes", False), ("1 2", "1\n2", False), ("", "", True), ("", "x", False),
        ("½", "½", True), ("1\n2", "1\r\n2\r\n", True),
    ],
)  # fmt: skip
def test_printed_text(expected, printed, correct):
    assert GRADERS["code_stdio"](stdio(("", expected)), fenced(f"print({printed!r})")).correct is correct


@pytest.mark.parametrize(("name", "gold"), [("code_functional", function([[]], [1])), ("code_stdio", stdio(("", "1")))])
@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(60)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ],
)
def test_endless_programs(name, gold, program):
    program = (
        "def f():\n"
        + "\n".join("    " + line for line in program.split("\n"))
        + "\nif __name__ == '__main__':\n    f()"
    )
    grade = GRADERS[name](gold, fenced(program), time_limit=0.4)
    assert grade == Grade(False, 0.0, program + "\n", "timeout")


@pytest.mark.parametrize(
    ("name", "gold"),
    [
        ("code_functional", None), ("code_functional", ""), ("code_functional", {}), ("code_functional", function([], [])),
        ("code_stdio", None), ("code_stdio", {}), ("code_stdio", {"tests": []}), ("code_stdio", {"tests": None}),
    ],
)  # fmt: skip
def test_without_tests_there_is_no_verdict(name, gold):
    grade = GRADERS[name](gold, fenced("def f(): pass"))
    assert (grade.correct, grade.reason) == (None, "no_gold")


@pytest.mark.parametrize(
    ("name", "gold"),
    [
        ("code_functional", function([[1]], [])), ("code_functional", {"calls": [[1]], "expected": [1]}),
        ("code_functional", function([[object()]], [1])), ("code_functional", function([[1]], [1], oracle="none")),
        ("code_functional", 3), ("code_functional", "no JSON"), ("code_stdio", {"tests": [{"input": "1"}]}),
        ("code_stdio", [1]),
    ],
)  # fmt: skip
def test_broken_golds_are_no_ones_fault(name, gold):
    grade = GRADERS[name](gold, fenced("def f(x): return 1"))
    assert (grade.correct, grade.reason) == (None, "error")


class FakeSandbox:
    """Gives the results it was made with, call after call, run after run."""

    def __init__(self, *runs):
        self.runs = [*runs]
        self.timeouts = []
        self.budgets = []

    def calls(self, program, entry_point, calls, *, timeout, budget, result_bytes) -> Iterator[CallResult]:
        assert len(result_bytes) == len(calls)
        self.timeouts.append(timeout)
        self.budgets.append(budget)
        for status, value in self.runs.pop(0):
            yield CallResult(value, status, 0.0)

    def stdio(self, program, stdin, *, timeout):
        self.timeouts.append(timeout)
        status, stdout = self.runs.pop(0)
        return StdioResult(stdout, status, 0, 0.0)


ONE = fenced("def f(): pass")


def test_a_time_out_is_paid_for_once():
    sandbox = FakeSandbox([("ok", 1), ("timeout", None)], [("ok", 1), ("ok", 2)])
    assert grade_code_functional(function([[], []], [1, 2]), ONE, sandbox=sandbox).reason == "timeout"  # type: ignore[arg-type]
    assert len(sandbox.runs) == 1
    sandbox = FakeSandbox(("timeout", ""), ("ok", "1\n"))
    assert grade_code_stdio(stdio(("", "1")), ONE, sandbox=sandbox).reason == "timeout"  # type: ignore[arg-type]
    assert len(sandbox.runs) == 1


def test_it_stops_at_the_first_failure():
    sandbox = FakeSandbox(("ok", "1"), ("ok", "no"), ("ok", "3"))
    grade = grade_code_stdio(stdio(("", "1"), ("", "2"), ("", "3")), ONE, sandbox=sandbox)  # type: ignore[arg-type]
    assert (grade.correct, len(sandbox.runs)) == (False, 1)


def test_results_that_stop_coming_are_no_success():
    sandbox = FakeSandbox([("ok", 1)])
    assert grade_code_functional(function([[], []], [1, 2]), ONE, sandbox=sandbox).correct is False  # type: ignore[arg-type]


def test_limits():
    for more, time_limit, limit in (
        ({}, 10.0, 10.0),
        ({"reference_seconds": 0.5}, 10.0, 10.0),
        ({"reference_seconds": 5.0}, 10.0, 40.0),
        ({}, 3.0, 3.0),
    ):
        sandbox = FakeSandbox([("ok", 1)])
        grade_code_functional(function([[]], [1], **more), ONE, time_limit=time_limit, sandbox=sandbox)  # type: ignore[arg-type]
        assert sandbox.timeouts == [limit]
    sandbox = FakeSandbox(("ok", "1"))
    grade_code_stdio(stdio(("", "1")), ONE, sandbox=sandbox)  # type: ignore[arg-type]
    assert sandbox.timeouts == [60.0]


def test_an_answer_has_a_budget_for_all_of_its_tests(monkeypatch):
    for options, budget in (({}, 60.0), ({"time_limit": 20.0}, 120.0), ({"time_budget": 5.0}, 5.0)):
        sandbox = FakeSandbox([("ok", 1)])
        grade_code_functional(function([[]], [1]), ONE, sandbox=sandbox, **options)  # type: ignore[arg-type]
        assert sandbox.budgets == [budget]
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(code.time, "monotonic", lambda: float(next(clock)))
    sandbox = FakeSandbox(*[("ok", "1")] * 40)
    gold = stdio(*[("", "1")] * 40)
    assert grade_code_stdio(gold, ONE, time_budget=120.0, sandbox=sandbox).reason == "timeout"  # type: ignore[arg-type]
    assert sandbox.timeouts == [60.0, 60.0, 45.0, 20.0]


def test_slow_calls_run_out_of_time_together():
    slow = fenced("import time\ndef f():\n    time.sleep(0.2)\n    return 1")
    gold = function([[]] * 50, [1] * 50)
    assert GRADERS["code_functional"](gold, slow, time_limit=20.0, time_budget=0.5).reason == "timeout"


def test_a_result_much_longer_than_the_right_one_is_not_taken_in(monkeypatch):
    decoded = []
    decode = encoding.decode
    monkeypatch.setattr(encoding, "decode", lambda data: decoded.append(len(data)) or decode(data))
    long = "def f():\n    return list(range(300_000))"
    assert GRADERS["code_functional"](function([[]], [[1, 2]]), fenced(long)).reason == "wrong"
    assert max(decoded) < 1 << 16
    assert GRADERS["code_functional"](function([[]], [[*range(300_000)]]), fenced(long)).reason == "ok"
    assert GRADERS["code_functional"](function([[]], [True], oracle="found"), fenced(long)).reason == "ok"
    ones, repeated = function([[]], [[True] * 1000]), "def f():\n    return [1 + 0j] * 1000"
    assert GRADERS["code_functional"](ones, fenced(repeated)).reason == "ok"


def test_colliding_numbers_are_wrong_at_once():
    colliding = fenced("def f():\n    return [i * (2**61 - 1) for i in range(3000)]")
    assert GRADERS["code_functional"](function([[]], [[1, 2]], oracle="set_equal"), colliding).reason == "wrong"


def test_a_failing_sandbox_says_nothing_about_the_program(monkeypatch, caplog):
    monkeypatch.setattr("lit_uniopd.rewards.grade._logged", {})
    for grade in (
        grade_code_functional(DOUBLE, ONE, sandbox=FakeSandbox([("error", None)])),  # type: ignore[arg-type]
        grade_code_stdio(stdio(("", "1")), ONE, sandbox=FakeSandbox(("error", ""))),  # type: ignore[arg-type]
    ):
        assert (grade.correct, grade.reason) == (None, "error")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_without_a_sandbox(monkeypatch, caplog):
    def refuse(*_):
        raise UserError("No sandbox works here.")

    monkeypatch.setattr("lit_uniopd.sandbox.backends.choose", refuse)
    with pytest.raises(UserError, match="No sandbox works here"):
        check_sandbox()
    with caplog.at_level(logging.WARNING):
        grade = GRADERS["code_functional"](DOUBLE, ONE)
    assert (grade.correct, grade.reason) == (None, "unsafe")
    assert "No sandbox works here" in caplog.text


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1, -1.5, "a\ud800", b"\x00", 1j, [1, (2, [3])], (), set(), {1: "a", (1, 2): [b""]}, {"tuple": 1},
        frozenset({1, "a"}), [10**5000], -(2**60), INF, -INF, {"a": {"b": {("c",)}}},
    ],
)  # fmt: skip
def test_tagged_data_comes_back(value):
    back = load_tagged(dump_tagged(value))
    assert back == value
    assert repr(type(back)) == repr(type(value))


def test_tagged_sets_have_one_text_and_objects_none():
    first, second = {0, 8}, {8, 0}
    assert [*first] != [*second]  # they collide
    assert dump_tagged(first) == dump_tagged(second)
    assert math.isnan(load_tagged(dump_tagged(NAN)))
    with pytest.raises(TypeError, match="object is no plain data"):
        dump_tagged([object()])
    for text in ('{"a": 1, "b": 2}', '{"eval": "1"}', "no JSON"):
        with pytest.raises(ValueError):  # noqa: PT011
            load_tagged(text)
