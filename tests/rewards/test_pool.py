import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lit_uniopd.errors import UserError
from lit_uniopd.rewards import GRADERS, Grade, GradeItem, GraderPool, fork_server, get_grader, grade

ROOT = Path(__file__).parents[2]
HOSTILE = r"\boxed{(x+y+z)^{1000}}"  # expanded, and compared term by term
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def item(answer, gold="1"):
    response = answer if "box" in answer else rf"\boxed{{{answer}}}"
    return GradeItem("math", gold, response, options={"extraction": "protocol"})


def pids(pool):
    return [process.child.pid for process in pool._processes if process.child is not None]


def run_python(code):
    """Run a script elsewhere; it returns when every process that holds its output, grandchildren included, has ended."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_hostile_answer_is_killed_and_only_it_suffers():
    with GraderPool(workers=1, time_limit=1.5) as pool:
        grades = pool.grade([item("1"), item(HOSTILE), item("1.0"), item(HOSTILE), item("2")])
    assert [g.reason for g in grades] == ["ok", "timeout", "ok", "timeout", "wrong"]
    assert [g.outcome for g in grades] == [1, 0, 1, 0, 0]


def test_what_is_killed_is_unknown_on_demand():
    with GraderPool(workers=1, time_limit=0.5, killed="unknown") as pool:
        (judged,) = pool.grade([item(HOSTILE)])
    assert (judged.correct, judged.reason) == (None, "timeout")


def test_hostile_answers_are_set_aside_and_hold_up_nobody():
    order = []
    with GraderPool(workers=1, time_limit=4.0) as pool:
        pool.grade([item("1.0")])
        futures = pool.submit([item(HOSTILE)] * 3 + [item("1.0")] * 5)
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: order.append(number))
        grades = pool.collect(futures)
        assert len(pool._processes) == 1  # those of the hostile answers are gone
    assert [g.reason for g in grades] == ["timeout"] * 3 + ["ok"] * 5
    assert order[:5] == [3, 4, 5, 6, 7]


def test_so_many_answers_are_set_aside_at_once(monkeypatch):
    lock, running, peak, all_over = threading.Lock(), 0, 0, threading.Event()

    def endless(gold, response, row=None, *, sandbox):
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        all_over.wait(2.0)
        with lock:
            running -= 1
        return Grade(False, 0.0)

    monkeypatch.setattr("lit_uniopd.rewards.pool.IN_THREAD", {"code_stdio": endless})
    monkeypatch.setattr("lit_uniopd.rewards.pool.PATIENCE_S", 0.02)
    with GraderPool(workers=1) as pool:
        futures = pool.submit([GradeItem("code_stdio", number, "") for number in range(20)])
        futures[4].result(timeout=30)
        all_over.set()
        pool.collect(futures)
        assert pool._programs.acquire(blocking=False)  # every place was given back
        assert not pool._programs.acquire(blocking=False)
    assert peak == 5


@needs_signals
def test_an_answer_that_crashes_its_process_is_incorrect(monkeypatch):
    with GraderPool(workers=1, time_limit=60) as pool:
        pool.grade([item("1.0")])
        killer = threading.Timer(0.1, os.kill, (pids(pool)[0], signal.SIGSEGV))
        killer.start()
        (judged,) = pool.grade([item(HOSTILE)])
        killer.join()
    assert (judged.correct, judged.reason) == (False, "memory")


@needs_signals
def test_a_dying_process_costs_one_answer():
    with GraderPool(workers=1, time_limit=60) as pool:
        pool.grade([item("1.0")])
        (first,) = pids(pool)
        killer = threading.Timer(0.3, os.kill, (first, signal.SIGKILL))
        killer.start()
        grades = pool.grade([item(HOSTILE), item("1.0"), item("2.0")])
        killer.join()
        assert [(g.correct, g.reason) for g in grades] == [(None, "error"), (True, "ok"), (False, "wrong")]
        assert pids(pool) != [first]


@needs_signals
def test_a_process_that_died_while_idle_costs_nothing():
    with GraderPool(workers=1) as pool:
        pool.grade([item("1.0")])
        child = pool._processes[0].child
        assert child is not None
        child.kill()
        child.wait()
        assert pool.grade([item("1.0")])[0].correct is True


def test_order_and_progress_under_mixed_durations():
    slow = [("x^2-25", "(x-5)(x+5)"), ("(1,7)", "(1, 7)"), (r"\sqrt{8}", r"2\sqrt{2}")]
    items, expected = [], []
    for i in range(30):
        gold, answer = slow[i % 3] if i % 4 == 0 else (str(i), str(i))
        right = i % 5 != 0
        items.append(item(answer if right else "-77", gold))
        expected.append((right, answer if right else "-77"))
    items.insert(10, GradeItem("exact", "a", "a"))  # graded here, not in a process
    expected.insert(10, (True, "a"))
    progress = []
    with GraderPool(workers=2) as pool:
        grades = pool.grade(iter(items), on_progress=lambda done, total: progress.append((done, total)))
    assert [(g.correct, g.extracted) for g in grades] == expected
    assert progress == [(i + 1, 31) for i in range(31)]


def test_threads_share_a_pool():
    with GraderPool(workers=2) as pool, ThreadPoolExecutor(6) as threads:
        jobs = [[item(f"{i}/7", f"{(i + k) % 12}/7") for i in range(12)] for k in (0, 1, 0, 3, 0, 5)]
        grades = list(threads.map(pool.grade, jobs))
        assert len(set(pids(pool))) <= 2
    assert [sum(g.outcome for g in job) for job in grades] == [12, 0, 12, 0, 12, 0]


def test_processes_start_when_needed_and_end_with_close():
    pool = GraderPool(workers=3)
    pool.grade([GradeItem("exact", "a", "b"), item(HOSTILE, gold=None)])  # type: ignore[arg-type]
    assert pids(pool) == []
    pool.grade([item("1.0")])
    pool.grade([item("1.0")])
    (child,) = [process.child for process in pool._processes if process.child is not None]
    pool.close()
    assert child.returncode is not None
    assert pids(pool) == []
    assert pool.grade([item("1.0")])[0].correct is True  # it can be used again
    pool.close()


def test_nothing_to_grade():
    with GraderPool() as pool:
        assert pool.grade([]) == []


def test_a_failing_progress_callback_stops_the_grading():
    def fail(done, total):
        raise ZeroDivisionError

    with GraderPool(workers=1) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.grade([item("1.0")] * 20, on_progress=fail)
        assert pool.grade([item("1.0"), item("2.0")])[1].correct is False  # replies are not shifted


@needs_signals
@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "sys.exit()"])
@pytest.mark.thinned(3)
def test_idle_processes_end_with_their_parent(end):
    result = run_python(
        "import os, sys; from lit_uniopd.rewards import GRADERS\n"
        rf"print(GRADERS['math']('1', r'\boxed{{1.0}}').correct, flush=True); {end}"
    )
    assert result.stdout.split() == ["True"]
    assert result.stderr == ""  # no ResourceWarning either


@needs_signals
def test_a_stalled_process_ends_with_its_parent():
    result = run_python(
        "import os, threading, time; from lit_uniopd.rewards import GradeItem, GraderPool\n"
        "pool = GraderPool(time_limit=2.0); pool.grade([GradeItem('math', '1', r'\\boxed{1.0}')])\n"
        f"threading.Thread(target=pool.grade, args=([GradeItem('math', '1', r'{HOSTILE}')],)).start()\n"
        "time.sleep(0.5); os.kill(os.getpid(), 9)"
    )
    assert result.returncode == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_child_has_processes_of_its_own():
    result = run_python(
        "import os; from lit_uniopd.rewards import GradeItem, GraderPool\n"
        "pool = GraderPool()\n"
        "def show(answer):\n"
        "    (grade,) = pool.grade([GradeItem('math', '1', rf'\\boxed{{{answer}}}')])\n"
        "    print(grade.correct, pool._processes[0].child.pid, flush=True)\n"
        "show('1.0')\n"
        "if os.fork() == 0:\n"
        "    show('2.0'); os._exit(0)\n"
        "os.wait(); show('1.0')\n"
    )
    assert result.stderr == ""
    (before, pid), (forked, other_pid), (after, same_pid) = (line.split() for line in result.stdout.splitlines())
    assert (before, forked, after) == ("True", "False", "True")
    assert pid == same_pid != other_pid


def test_nothing_heavy_is_imported():
    result = run_python(
        "import sys, lit_uniopd.rewards, lit_uniopd.rewards.worker\n"
        "print([m for m in ('torch', 'transformers', 'lightning', 'datasets', 'sympy', 'numpy') if m in sys.modules])"
    )
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_grading_captions_imports_no_torch():
    result = run_python(
        "import sys; from lit_uniopd.rewards import GradeItem, GraderPool\n"
        "caption = 'Two dogs and a cat.'\n"
        "amber = {'truth': ['dog'], 'hallu': ['cat'], 'association': {'dog': [], 'cat': []}, 'safe_words': []}\n"
        "items = [GradeItem('chair', ['dog', 'cat'], caption), GradeItem('amber', amber, caption)]\n"
        "print([grade.correct for grade in GraderPool().grade(items)], 'torch' in sys.modules)"
    )
    assert (result.stdout.strip(), result.stderr) == ("[True, False] False", "")


def test_it_works_without_a_main_guard_and_from_any_directory(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom lit_uniopd.rewards import GRADERS\n"
        r"print(GRADERS['math']('0.5', r'\boxed{50\%}').correct)"
    )
    result = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (result.stdout.strip(), result.stderr) == ("True", "")


def test_graders_that_cannot_work_are_the_users_affair(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('no antlr')")
    monkeypatch.setattr(fork_server, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # tmp_path comes first and shadows the package
    pool = GraderPool()
    with pytest.raises(UserError, match="The graders cannot be used: no antlr"):
        pool.grade([item("1.0")])
    assert pids(pool) == []


def test_a_process_that_does_not_start_is_the_users_affair(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = GraderPool()
    with pytest.raises(UserError, match="did not start"):
        pool.grade([item("1.0")])


def test_unknown_graders_are_refused():
    with pytest.raises(
        UserError,
        match=r"no grader named 'maths' \(did you mean math\?\); name one of .*code_stdio, .*exact, .*math, .*playground",
    ):
        get_grader("maths")
    with GraderPool() as pool, pytest.raises(UserError, match="'maths'"):
        pool.grade([GradeItem("maths", "1", "1")])
    assert get_grader("math") is GRADERS["math"]


@pytest.mark.parametrize("arguments", [{"workers": 0}, {"time_limit": 0.0}])
def test_pool_arguments(arguments):
    with pytest.raises(ValueError, match="workers and time_limit must be positive"):
        GraderPool(**arguments)


def test_types_re_exports_the_grade():
    from lit_uniopd import types

    assert types.Grade is Grade
    assert (types.CORRECT, types.INCORRECT, types.UNKNOWN) == (1, 0, -1)


@pytest.mark.slow
def test_no_grader_raises_on_garbage(monkeypatch):
    monkeypatch.setattr(grade, "_logged", {})
    rng = random.Random(0)
    alphabet = [
        "\\boxed{",
        "\\frac",
        "{",
        "}",
        "\\",
        "^",
        "_",
        "&",
        "%",
        "$",
        "\x00",
        "\ud800",
        "∑",
        "9",
        "x",
        "<think>",
    ]
    texts = ["".join(rng.choices(alphabet, k=rng.randint(0, 25))) for _ in range(60)]
    texts += [rng.randbytes(40).decode("latin-1") for _ in range(20)]
    texts += ["\\boxed{" * 200_000, "<think>" * 200_000 + "</think>", "\\boxed{" + "x" * 1_000_000 + "}"]
    pairs: list[tuple[Any, Any]] = [(rng.choice(["1", "\\frac12", rng.choice(texts)]), text) for text in texts]
    pairs += [("1", text) for text in (None, b"1", 1, ["1"])]
    pairs += [(gold, "\\boxed{1}") for gold in (b"1", ["1"], {"a": 1}, object(), 1j, 10**5000, float("inf"), True)]
    reasons = {"ok", "wrong", "no_answer", "truncated", "timeout", "memory", "error", "no_gold", "unsafe"}
    with GraderPool(workers=1, time_limit=2.0) as pool:
        for name, grader in GRADERS.items():
            for (gold, text), pooled in zip(pairs, pool.grade([GradeItem(name, *pair) for pair in pairs]), strict=True):
                assert pooled.reason in reasons
                if name != "math" or not isinstance(text, str):
                    assert grader(gold, text) == pooled
                if not isinstance(text, str):
                    assert (pooled.correct, pooled.reason) == (None, "error")


def test_an_error_is_counted_and_its_first_kind_explained(monkeypatch, caplog):
    monkeypatch.setattr(grade, "_logged", {})
    with GraderPool() as pool:
        wrong_option = GradeItem("math", "1", r"\boxed{2}", options={"tolerance": 1})
        not_plain = GradeItem("math", "1", r"\boxed{2}", options={"digits": object()})
        grades = pool.grade([wrong_option, wrong_option, not_plain, item("2.0")])
    assert [(g.correct, g.reason) for g in grades] == [(None, "error")] * 3 + [(False, "wrong")]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'tolerance'" in caplog.text


def test_direct_calls():
    assert GRADERS["math"]("1/2", r"\boxed{0.5}", {"column": object()}).correct is True
    assert GRADERS["math"]("1/2", r"\boxed{0.52}", digits=1).correct is True


DOUBLE = {"entry_point": "f", "calls": [[1], [2]], "expected": [2, 4]}
ECHO = {"tests": [{"stdin": "a", "stdout": "a"}]}


def program(text):
    return f"```python\n{text}\n```"


def code_items():
    right = program("def f(x):\n    return 2 * x")
    return [
        GradeItem("code_functional", DOUBLE, right),
        item("1.0"),
        GradeItem("code_stdio", ECHO, program("print(input())")),
        GradeItem("exact", "a", "b"),
        GradeItem("code_functional", {**DOUBLE, "expected": [(2,), 4]}, right),
        item("7"),
        GradeItem("code_stdio", ECHO, program("print(1)")),
        GradeItem("code_functional", DOUBLE, right, options={"no_such_option": 1}),
        GradeItem("code_functional", None, right),
    ]


OUTCOMES = [1, 1, 1, 0, 0, 0, 0, -1, -1]


def test_programs_and_other_answers_are_graded_together(monkeypatch):
    monkeypatch.setattr(grade, "_logged", {})
    progress = []
    with GraderPool(workers=2) as pool:
        assert pool.sandbox_backend is None
        grades = pool.grade(code_items(), on_progress=lambda *done: progress.append(done))
        assert pool.sandbox_backend in ("bubblewrap", "unshare", "seccomp")
        assert [g.outcome for g in grades] == OUTCOMES
        assert progress == [(i + 1, 9) for i in range(9)]
        futures = pool.submit(code_items()) + pool.submit(iter([]))
        assert [f.result(timeout=60).outcome for f in futures] == OUTCOMES


def test_submitting_does_not_wait(tmp_path):
    sleepy = program("import time\ntime.sleep(30)\ndef f(x): pass")
    with GraderPool(workers=1) as pool:
        futures = pool.submit(
            [GradeItem("exact", "a", "a")]
            + [GradeItem("code_functional", DOUBLE, sleepy, options={"time_limit": 1.0})] * 3
        )
        assert futures[0].result(timeout=0).correct is True
        assert not futures[1].done()
        assert [f.cancel() for f in futures[2:]] == [True, True]


@pytest.mark.parametrize(("workers", "cores", "most"), [(4, {0, 1, 2}, 2), (1, {*range(8)}, 1), (3, {5}, 1)])
def test_so_many_programs_run_at_once(monkeypatch, workers, cores, most):
    lock, running, peak = threading.Lock(), 0, 0
    everybody = threading.Barrier(most)

    def watched(gold, response, row=None, *, sandbox):
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        if gold < most:
            everybody.wait(timeout=30)
        with lock:
            running -= 1
        return Grade(True, 1.0)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    monkeypatch.setattr("lit_uniopd.rewards.pool.IN_THREAD", {"code_stdio": watched})
    with GraderPool(workers=workers) as pool:
        grades = pool.grade([GradeItem("code_stdio", number, "") for number in range(12)])
    assert (len(grades), peak) == (12, most)


def test_without_a_sandbox_nothing_is_begun(monkeypatch):
    def refuse(*_):
        raise UserError("No sandbox works here.")

    monkeypatch.setattr("lit_uniopd.sandbox.backends.choose", refuse)
    pool = GraderPool()
    for attempt in (pool.grade, pool.submit):
        with pytest.raises(UserError, match="No sandbox works here"):
            attempt(code_items())
    with pytest.raises(UserError, match="No sandbox works here"):
        pool.prepare(["exact", "code_stdio"])
    pool.prepare(["exact", "math"])
    with pytest.raises(UserError, match="'maths'"):
        pool.prepare(["maths"])
    assert pids(pool) == []


@needs_signals
def test_a_finished_parent_does_not_wait_for_programs():
    result = run_python(
        "from lit_uniopd.rewards import GradeItem, GraderPool\n"
        "gold = {'tests': [{'stdin': '', 'stdout': ''}]}\n"
        "futures = GraderPool().submit([GradeItem('code_stdio', gold, '```\\nwhile True: pass\\n```')] * 50)\n"
        "print(len(futures))"
    )
    assert (result.stdout.strip(), result.stderr) == ("50", "")
