"""Programs that cheat, hang or flood: none may get anywhere, in any backend that works here."""

import sys
import textwrap
import time
import uuid

import pytest
from sandbox.attacks import SMALL, attempts, first, marker, small

from lit_uniopd.sandbox import Sandbox, SandboxArgs, backends

EXPECTED = 987654321
"""The right answer to every call below; the sandbox is never told."""
PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)


def test_this_machine_has_a_sandbox_without_further_installation():
    if sys.platform != "linux":
        pytest.skip("only Linux has one")
    assert None in [backends.probe("unshare"), backends.probe("seccomp")]


# Forging a verdict -----------------------------------------------------------------------------------------------------

FORGERIES = {
    "sys.exit": ("import sys\ndef f(x): sys.exit(0)", "exit"),
    "sys.exit while loading": ("import sys\nsys.exit(0)", "exit"),
    "os._exit": ("import os\ndef f(x): os._exit(0)", "exit"),
    "os._exit while loading": ("import os\nos._exit(0)", "exit"),
    "atexit": ("import atexit, os\natexit.register(print, 'All tests passed')\ndef f(x): raise SystemExit(0)", "exit"),
    "crash": ("import ctypes\ndef f(x): ctypes.string_at(0)", "exit"),
    "always equal": ("class A:\n  def __eq__(s, o): return True\ndef f(x): return A()", "not_plain"),
    "always equal, nested": ("class A:\n  def __eq__(s, o): return True\ndef f(x): return {'a': [A()]}", "not_plain"),
    **{
        f"subclass of {kind}": (f"class A({kind}):\n  def __eq__(s, o): return True\n  __hash__ = None\ndef f(x): return A()", "not_plain")
        for kind in ("int", "float", "str", "list", "tuple", "dict")
    },
    "a class that claims to be int": ("class A:\n  __class__ = int\n  def __eq__(s, o): return True\ndef f(x): return A()", "not_plain"),
    "a metaclass that claims to be int": (
        "class M(type):\n  def __eq__(s, o): return True\n  __hash__ = lambda s: hash(int)\nclass A(metaclass=M): pass\ndef f(x): return A()",
        None,
    ),
    "exception with a hostile text": ("class E(Exception):\n  def __str__(s): raise E()\ndef f(x): raise E()", "exception"),
    "builtins": (
        "import builtins, json, math, operator\n"
        "class A:\n  def __eq__(s, o): return True\n"
        "builtins.isinstance = builtins.all = builtins.any = lambda *a: True\nbuiltins.type = lambda *a: int\n"
        "builtins.AssertionError = BaseException\nmath.isclose = operator.eq = lambda *a, **k: True\n"
        "json.dumps = json.loads = lambda *a, **k: None\n"
        "def f(x): return A()",
        None,
    ),
    "test modules": (
        "import sys, types\nfor name in ('unittest', 'pytest', 'numpy', 'numpy.testing', 'lit_uniopd'):\n"
        "  sys.modules[name] = types.ModuleType(name)\ndef f(x): return True",
        "ok",
    ),
    "success markers": ("def f(x):\n  print('All tests passed\\nOK', True, 'passed', flush=True)", "ok"),
    "nan": ("def f(x): return float('nan')", "ok"),
    "the harness, replaced": (
        "import sys\n"
        "frame = sys._getframe()\n"
        "while frame:\n"
        "  for space in (frame.f_locals, frame.f_globals):\n"
        "    for name in ('encode', 'encode_', 'reply_', '_reply'):\n"
        "      if name in space: space[name] = lambda *a: (_ for _ in ()).throw(SystemExit(0))\n"
        "  frame = frame.f_back\n"
        "def f(x): pass",
        None,
    ),
    "noise on all descriptors": (
        "import os\ndef f(x):\n  for fd in range(3, 64):\n    try: os.write(fd, b'\\x01' * 99)\n    except OSError: pass\n  return 1",
        "not_plain",
    ),
    "all descriptors closed": ("import os\ndef f(x): os.closerange(0, 64)", "exit"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_cannot_be_forged(sandbox: Sandbox, name: str):
    program, status = FORGERIES[name]
    result = first(sandbox, program, 1)
    assert type(result.value) in PLAIN_TYPES  # so that its __eq__ is Python's own
    assert result.value != EXPECTED
    assert result.status == status or status is None
    assert result.status == "ok" or result.value is None


def test_answers_cannot_be_given_ahead_of_the_inputs(sandbox: Sandbox):
    """The program takes the first call's nonce from the harness and answers ten times."""
    program = textwrap.dedent("""
        import gc, os, struct
        def f(x):
            nonces = [o for o in gc.get_objects() if type(o) is bytes and len(o) == 16]
            frame = __import__("sys")._getframe()
            while frame:
                nonces += [o for o in frame.f_locals.values() if type(o) is bytes and len(o) == 16]
                frame = frame.f_back
            data = b"".join(struct.pack("<16sBI", n, 1, 6) + b"i\\x01\\0\\0\\0\\x07" for n in nonces) * 10
            for fd in range(3, 64):
                try: os.write(fd, data)
                except OSError: pass
            return 7
    """)
    results = list(sandbox.calls(program, "f", [[1], [2], [3]], timeout=10))
    assert results[0].value == 7, "the forged frame was meant to be accepted as the program's own answer"
    assert [result.status for result in results] == ["ok", "not_plain"]


def test_a_forged_answer_costs_the_parent_nothing(sandbox: Sandbox):
    """An honest header that promises four gigabytes, and a set of colliding keys, both straight into the pipe."""
    program = """
        import os, struct, sys
        def f(body, length):
            frame = sys._getframe()
            while "nonce" not in frame.f_locals:
                frame = frame.f_back
            data = struct.pack("<16sBI", frame.f_locals["nonce"], 1, length or len(body)) + body
            for fd in range(3, 64):
                try: os.write(fd, data)
                except OSError: pass
            while True: pass
    """
    colliding = b"".join(b"i\x0a\0\0\0" + (i * (2**61 - 1)).to_bytes(10, "little") for i in range(4000))
    start = time.monotonic()
    assert first(small(sandbox), program, b"", 2**32 - 1, timeout=2).status == "output"
    assert (
        first(small(sandbox), program, b"u" + (4000).to_bytes(4, "little") + colliding, 0, timeout=2).status
        == "not_plain"
    )
    assert time.monotonic() - start < 10


def test_expected_results_and_later_inputs_are_nowhere_to_be_found(sandbox: Sandbox):
    program = textwrap.dedent("""
        import gc, os, sys, select
        def reachable():
            seen, todo = {}, [*gc.get_objects(), *os.environ.items(), *sys.argv, *sys.orig_argv]
            frame = sys._getframe()
            while frame:
                todo += [*frame.f_locals.values(), *frame.f_globals.values()]
                frame = frame.f_back
            while todo and len(seen) < 10**6:
                o = todo.pop()
                if id(o) not in seen:
                    seen[id(o)] = o
                    todo += gc.get_referents(o)
            for fd in select.select([fd for fd in range(64) if is_open(fd)], [], [], 0)[0]:
                seen[-fd] = os.read(fd, 1 << 20)
            return seen.values()
        def is_open(fd):
            try: return bool(os.fstat(fd))
            except OSError: return False
        def f(half, other):
            text = half + other
            return any(text in o if type(o) is str else text.encode() in o
                       for o in reachable() if type(o) in (str, bytes) and o is not text)
    """)
    secret = "expected-" + uuid.uuid4().hex
    assert (
        next(iter(sandbox.calls(program, "f", [[secret[:20], secret[20:]], [secret, ""]], timeout=20))).value is False
    )
    assert [r.value for r in sandbox.calls(program, "f", [[secret, ""]], timeout=20)] == [True], (
        "the search finds nothing at all"
    )


# Time ------------------------------------------------------------------------------------------------------------------

HANGS = {
    "loop": "while True: pass",
    "sleep": "import time; time.sleep(1000)",
    "one long instruction": "9 ** 9 ** 9",
    "swallowed interrupts": "import time\n  while True:\n    try: time.sleep(1)\n    except BaseException: pass",
    "ignored signals": (
        "import signal\n  for s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
        "  signal.alarm(0); signal.setitimer(signal.ITIMER_REAL, 0)\n  while True: pass"
    ),
    "blocked signals": "import signal\n  signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n  while True: pass",
    "an exception that never says its name": "\n  class E(Exception):\n    def __str__(s):\n      while True: pass\n  raise E()",
    "eating the parent's messages": "import os\n  while True:\n    for fd in (3, 4, 5, 6):\n      try: os.read(fd, 1)\n      except OSError: pass",
    "flood of standard error": "import os\n  while True: os.write(2, b'x' * 65536)",
}  # fmt: skip


@pytest.mark.parametrize("name", HANGS)
def test_a_deadline_is_the_parents(sandbox: Sandbox, name: str):
    start = time.monotonic()
    assert first(sandbox, f"def f(x):\n  {HANGS[name]}", 1, timeout=0.15).status == "timeout"
    assert time.monotonic() - start < 10


def test_each_part_has_its_own_deadline(sandbox: Sandbox):
    loading = next(iter(sandbox.calls("while True: pass", "f", [[1]], timeout=20, load_timeout=0.15)))
    assert loading.status == "timeout"
    program = "import time\ndef f(s):\n  time.sleep(s)\n  return s"
    results = list(sandbox.calls(program, "f", [[0.5], [0.5], [0]], timeout=[20, 0.1, 20]))
    assert [result.status for result in results] == ["ok", "timeout"]
    assert results[0].seconds >= 0.5
    assert sandbox.stdio("while True: pass", "", timeout=0.15).status == "timeout"
    assert sandbox.stdio("import os, time\nos.closerange(0, 3)\ntime.sleep(99)", "", timeout=0.15).status == "timeout"


# Resources -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("return bytearray(2 << 30)", "memory"),
        ("x = []\n  while True: x.append(bytes(1 << 20))", "memory"),
        ("return 'x' * (8 << 20)", "output"),
        ("return list(range(10 ** 6))", "output"),
        ("x = []\n  for _ in range(60): x = [x, x]\n  return x", "output"),
        ("x = []\n  for _ in range(10 ** 5): x = [x]\n  return x", "not_plain"),
        ("x = []\n  x.append(x)\n  return x", "not_plain"),
        ("x = {}\n  x[1] = (x,)\n  return x", "not_plain"),
        ("for _ in range(100): print('x' * (1 << 20))", "ok"),  # what a function prints is discarded
    ],
)
def test_resources_are_bounded_in_calls(sandbox: Sandbox, body: str, status: str):
    assert first(small(sandbox), f"def f(x):\n  {body}", 1).status == status


def test_resources_are_bounded_in_runs(sandbox: Sandbox):
    flood = small(sandbox).stdio("while True: print('x' * 1000)", "", timeout=30)
    assert flood.status == "output"
    assert len(flood.stdout) == SMALL.output_bytes
    assert small(sandbox).stdio("x = 'x' * (2 << 30)", "", timeout=30).status == "memory"
    assert (
        small(sandbox)
        .stdio("import sys\nfor _ in range(100): sys.stderr.write('x' * (1 << 20))", "", timeout=30)
        .status
        == "ok"
    )


def test_processes_cannot_be_started(sandbox: Sandbox):
    program = """
        import ctypes, multiprocessing, os, subprocess, sys
        def child(pid):
            if pid == 0: os._exit(0)
            return True
        def f(_):
            libc = ctypes.CDLL(None)
            attempt("fork", lambda: child(os.fork()))
            attempt("forkpty", lambda: child(os.forkpty()[0]))
            attempt("libc fork", lambda: child(libc.fork()) if libc.fork() >= 0 else False)
            attempt("posix_spawn", lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}))
            attempt("subprocess", lambda: subprocess.run([sys.executable, "-c", ""]))
            attempt("system", lambda: os.system("true") == 0)
            attempt("multiprocessing", lambda: multiprocessing.get_context("fork").Process(target=int).start())
            attempt("exec", lambda: os.execv(sys.executable, [sys.executable]))
            attempt("setsid", os.setsid)
            attempt("setpgid", lambda: os.setpgid(0, 0))
            attempt("unshare", lambda: libc.unshare(0x10000000) == 0)
            attempt("outlive the parent", lambda: libc.prctl(1, 0, 0, 0, 0) == 0)
            return managed
    """
    assert attempts(sandbox, program, 0) == []


def test_a_fork_bomb_stays_one_process(sandbox: Sandbox, running, wait_until):
    """Bounded on purpose: eight generations would be 256 processes."""
    name = marker()
    program = f"""
        import ctypes, os, time
        def f(x):
            ctypes.CDLL(None).prctl(15, b"{name}", 0, 0, 0)
            for _ in range(8):
                try: os.fork()
                except OSError: pass
            while True: time.sleep(1)
    """
    assert first(sandbox, program, 1, timeout=0.5).status == "timeout"
    assert wait_until(lambda: not running(name))


def test_threads_are_bounded_by_memory(sandbox: Sandbox):
    program = """
        import threading, time
        def f(stack):
            threading.stack_size(stack)
            count = 0
            try:
                while count < 6000:
                    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
                    count += 1
            except (RuntimeError, MemoryError): pass
            return count
    """
    assert first(small(sandbox), program, 32768).value == 0
    assert first(small(sandbox), program, 1 << 20).value < 1100


def test_the_unsafe_backend_is_no_easier_to_fool():
    """It leaves files and network open, which is why it must be asked for; verdicts are as safe as in the others."""
    plain = Sandbox(SandboxArgs(backend="plain", allow_unsafe=True))
    for program, status in FORGERIES.values():
        result = first(plain, program, 1)
        assert type(result.value) in PLAIN_TYPES
        assert result.status == status or status is None
