"""What honest programs need works in every backend, and the results say what happened."""

import collections
import math
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lit_uniopd.sandbox import ExportError, Limits, Sandbox


def call(sandbox: Sandbox, program: str, *arguments, name: str = "f"):
    return next(iter(sandbox.calls(textwrap.dedent(program), name, [arguments], timeout=20)))


READERS = {
    "sys.stdin.buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "open(0)": "print(sum(map(int, open(0).read().split())))",
    "/dev/stdin": "print(sum(map(int, open('/dev/stdin').read().split())))",
    "os.read": "import os\nprint(sum(map(int, os.read(0, 1000).split())))",
    "iteration": "import sys\nprint(sum(int(line) for line in sys.stdin))",
    "input": "print(sum(int(input()) for _ in range(3)))",
    "until the end": "n = 0\ntry:\n  while True: n += int(input())\nexcept EOFError: print(n)",
    "os.write": "import os\nos.write(1, str(sum(map(int, open(0)))).encode())",
    "sys.stdout replaced": "import io, sys\nreal, sys.stdout = sys.stdout, io.StringIO()\nprint(sum(map(int, open(0))))\nreal.write(sys.stdout.getvalue())",
    "main guard": "def main(): print(sum(map(int, open(0))))\nif __name__ == '__main__': main()",
    "global": "n = 0\ndef add(x):\n  global n\n  n += x\nfor line in open(0): add(int(line))\nprint(n)",
    "sys.exit": "import sys\nprint(sum(map(int, sys.stdin)))\nsys.exit(0)",
    "exit": "print(sum(map(int, open(0))))\nexit()",
    "os._exit": "import os\nprint(sum(map(int, open(0))), flush=True)\nos._exit(0)",
    "threads": "import sys, threading\nsys.setrecursionlimit(10 ** 6)\nthreading.stack_size(1 << 27)\nt = threading.Thread(target=lambda: print(sum(map(int, open(0)))))\nt.start()",
    "atexit": "import atexit\natexit.register(lambda: print(sum(map(int, open(0)))))",
    "resource": "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (1 << 28, -1))\nprint(sum(map(int, open(0))))",
    "numpy": "import numpy as np\nprint(np.array(open(0).read().split(), dtype=int).sum())",
    "asyncio": "import asyncio\nasync def main(): print(sum(map(int, open(0))))\nasyncio.run(main())",
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_programs_read_and_write_in_every_usual_way(sandbox: Sandbox, name: str):
    result = sandbox.stdio(READERS[name], "1\n2\n39\n", timeout=20)
    assert (result.status, result.stdout.strip(), result.returncode) == ("ok", "42", 0), result


def test_large_input_and_output_pass_the_pipes(sandbox: Sandbox):
    lines = "\n".join(map(str, range(200_000)))
    assert sandbox.stdio("import sys\nsys.stdout.write(sys.stdin.read())", lines, timeout=30).stdout == lines
    assert sandbox.stdio("print('not read')", lines, timeout=30).stdout == "not read\n"


@pytest.mark.parametrize(
    ("program", "status", "code", "message"),
    [
        ("print(1)\nraise ValueError('bad')", "exception", 1, "ValueError: bad"),
        ("print(1)\nimport sys\nsys.exit(3)", "exit", 3, ""),
        ("print(1)\nimport sys\nsys.exit('text')", "exit", 1, "text"),
        ("print(1", "exception", 1, "SyntaxError"),
        ("\0", "exception", 1, "null bytes"),
        ("print(1)\nimport sys\nprint('note', file=sys.stderr)", "ok", 0, "note"),
    ],
)
def test_the_end_of_a_run_is_told(sandbox: Sandbox, program, status, code, message):
    result = sandbox.stdio(program, "", timeout=20)
    assert (result.status, result.returncode) == (status, code)
    assert message in result.message


FUNCTIONS = {
    "functools.cache, deep": "import functools, sys\nsys.setrecursionlimit(10 ** 6)\n@functools.cache\ndef g(n): return 0 if n == 0 else 1 + g(n - 1)\ndef f(x): return g(x * 400)",
    "recursion, deep": "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(x):\n  def g(n): return 0 if n == 0 else 1 + g(n - 1)\n  return g(x * 400)",
    "a low recursion limit": "import sys\ndef f(x):\n  sys.setrecursionlimit(20)\n  return 16800",
    "noise": "import sys\nprint('loading')\ndef f(x):\n  print('x' * 100000)\n  print(1, file=sys.stderr)\n  sys.stdout.write('y')\n  return x * 400",
    "stdin is empty": "def f(x):\n  import sys\n  assert sys.stdin.read() == ''\n  return x * 400",
    "threads": "import threading\ndef f(x):\n  out = []\n  ts = [threading.Thread(target=out.append, args=(x,)) for _ in range(400)]\n  [t.start() for t in ts]; [t.join() for t in ts]\n  return sum(out)",
    "executor": "from concurrent.futures import ThreadPoolExecutor\ndef f(x):\n  with ThreadPoolExecutor(8) as pool: return sum(pool.map(int, [x] * 400))",
    "numpy": "import numpy as np\ndef f(x): return int(np.linalg.det(np.eye(3) * x) / x ** 2 * 400 + 0.5)",
    "no main": "y = 0\nif __name__ == '__main__':\n  y = 1\n  raise SystemExit\ndef f(x): return x * 400 + y",
    "global": "n = 0\ndef f(x):\n  global n\n  n += x * 400\n  return n",
    "dataclasses": "from __future__ import annotations\nimport dataclasses, typing\n@dataclasses.dataclass\nclass A:\n  x: int\ndef f(x): return A(**dataclasses.asdict(A(x))).x * 400 if typing.get_type_hints(A) else 0",
    "class Solution": "class Solution:\n  def __init__(self): self.k = 400\n  def f(self, x): return self.k * x",
    "lambda": "f = lambda x: x * 400",
    "imports": "import bisect, collections, copy, datetime, decimal, fractions, heapq, itertools, json, math, operator, queue, random, re, statistics, string, time, typing, zoneinfo\ndef f(x): return x * 400",
    "local time": "import datetime, zoneinfo\ndef f(x): return x * 400 + datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo('UTC')).minute",
    "kills itself softly": "import os, signal\ndef f(x):\n  signal.signal(signal.SIGUSR1, lambda *a: None)\n  os.kill(os.getpid(), signal.SIGUSR1)\n  return x * 400",
    "/dev/null": "def f(x):\n  with open('/dev/null', 'w') as file: file.write('x')\n  return x * 400",
    "numpy, much of it": "import numpy as np\ndef f(x):\n  r = np.random.default_rng(0)\n  a = r.normal(size=(300, 300))\n  u, s, v = np.linalg.svd(a)\n  assert np.allclose(u * s @ v, a) and abs(np.fft.ifft(np.fft.fft(a)) - a).max() < 1e-9\n  return int(np.full(400, x).sum())",
    "json, re, decimal": "import decimal, json, re\ndef f(x):\n  d = decimal.Decimal(json.loads(json.dumps({'a': [x]}))['a'][0])\n  return int(re.sub(r'(\\d+)', r'\\1', str(d * 400)))",
    "random, secrets, uuid": "import random, secrets, uuid\ndef f(x):\n  random.seed(); random.SystemRandom().random(); secrets.token_bytes(9); uuid.uuid1(); uuid.uuid4()\n  return x * 400",
    "heapq, itertools": "import heapq, itertools\ndef f(x):\n  h = list(itertools.islice(itertools.count(x), 400))\n  heapq.heapify(h)\n  return heapq.heappop(h) * len(h) + x",
    "sqlite in memory": "import sqlite3\ndef f(x):\n  db = sqlite3.connect(':memory:')\n  db.execute('create table t (n int)')\n  db.executemany('insert into t values (?)', [(x,)] * 400)\n  db.commit()\n  return db.execute('select sum(n) from t').fetchone()[0]",
    "locks, queues, timers": "import queue, threading\ndef f(x):\n  q, e = queue.Queue(), threading.Event()\n  threading.Timer(0.01, e.set).start()\n  threading.Thread(target=lambda: [q.put(x) for _ in range(400)]).start()\n  return sum(q.get(timeout=5) for _ in range(400)) if e.wait(5) else 0",
    "an alarm": "import signal, time\ndef f(x):\n  seen = []\n  signal.signal(signal.SIGALRM, lambda *a: seen.append(x))\n  signal.setitimer(signal.ITIMER_REAL, 0.01)\n  time.sleep(0.2)\n  return seen[0] * 400",
    "a signal waited for": "import os, signal\ndef f(x):\n  signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n  signal.raise_signal(signal.SIGUSR1)\n  return x * 400 if signal.sigwait([signal.SIGUSR1]) == signal.SIGUSR1 else 0",
    "processes refused": "import multiprocessing, os, subprocess\ndef f(x):\n  for start in (lambda: subprocess.run(['true']), lambda: os.fork(), lambda: multiprocessing.Pool(2), lambda: os.popen('true')):\n    try: start()\n    except OSError: continue\n    return 0\n  return x * 400",
    "pipes, pairs, polls": "import os, select, selectors, socket\ndef f(x):\n  a, b = socket.socketpair()\n  a.setblocking(False); b.settimeout(2)\n  a.send(bytes([x]))\n  with selectors.DefaultSelector() as s:\n    s.register(b, selectors.EVENT_READ)\n    s.select(2)\n  r, w = os.pipe()\n  os.write(w, b.recv(1))\n  select.select([r], [], [], 2)\n  return os.read(os.dup(r), 1)[0] * 400",
    "a pool in asyncio": "import asyncio, time\nasync def g(x):\n  await asyncio.sleep(0.001)\n  return await asyncio.to_thread(int, x)\nasync def main(x): return sum(await asyncio.gather(*(g(x) for _ in range(400))))\ndef f(x): return asyncio.run(main(x))",
    "memory maps": "import mmap\ndef f(x):\n  with mmap.mmap(-1, 1 << 20) as m:\n    m[0] = x\n    m.resize(1 << 21)\n    m.flush()\n    return m[0] * 400",
    "the machine": "import os, platform, resource, shutil, sys, sysconfig, time\ndef f(x):\n  platform.platform(); sysconfig.get_paths(); os.uname(); os.cpu_count(); len(os.sched_getaffinity(0)); os.getpid(); os.times(); os.getsid(0); os.getpgid(0); os.getpriority(os.PRIO_PROCESS, 0)\n  os.get_terminal_size if sys.stdin.isatty() else 0\n  shutil.get_terminal_size(); resource.getrusage(resource.RUSAGE_SELF); time.process_time(); time.thread_time(); time.get_clock_info('monotonic')\n  return x * 400",
    "locale": "import calendar, gettext, locale\ndef f(x):\n  locale.setlocale(locale.LC_ALL, '')\n  locale.format_string('%d', x, grouping=True); gettext.gettext('x'); calendar.month_name[1]\n  return x * 400",
    "time zones": "import datetime, time, zoneinfo\ndef f(x):\n  time.localtime(); datetime.datetime.now().astimezone(); datetime.datetime(2020, 6, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin')).utcoffset()\n  return x * 400",
    "compression and hashes": "import bz2, gzip, hashlib, io, lzma, pickle, tarfile, zipfile, zlib\ndef f(x):\n  data = pickle.dumps([x] * 400)\n  for m in (bz2, gzip, lzma, zlib): assert m.decompress(m.compress(data)) == data\n  hashlib.sha256(data).hexdigest(); hashlib.scrypt(b'x', salt=b'y', n=2, r=8, p=1)\n  return sum(pickle.loads(data))",
    "exceptions and tracebacks": "import contextlib, io, traceback, warnings, logging\ndef f(x):\n  try: 1 / 0\n  except ZeroDivisionError: assert 'ZeroDivisionError' in traceback.format_exc()\n  warnings.warn('x'); logging.warning('x')\n  with contextlib.redirect_stdout(io.StringIO()) as out: print(x * 400)\n  return int(out.getvalue())",
    "files in memory, paths": "import io, os, pathlib\ndef f(x):\n  assert os.path.exists('/usr/lib') and not os.path.exists('/nowhere') and pathlib.Path('.').resolve() == pathlib.Path('/')\n  assert os.path.isfile(os.__file__) and open(os.__file__).readline() and 'os.py' in os.listdir(os.path.dirname(os.__file__))\n  return io.StringIO(str(x * 400)).read() and x * 400",
    "tests": "import doctest, unittest\nclass T(unittest.TestCase):\n  def test(self): self.assertEqual(1, 1)\ndef f(x):\n  r = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T))\n  return x * 400 if r.wasSuccessful() else 0",
    "ctypes": "import ctypes\ndef f(x): return ctypes.CDLL(None).abs(-x) * 400",
    "garbage and memory": "import gc, tracemalloc, weakref\ndef f(x):\n  tracemalloc.start(); a = [bytearray(1 << 20) for _ in range(200)]; del a; gc.collect(); tracemalloc.stop()\n  return x * 400",
    "the standard library": (
        "import importlib, sys\nskip = {'antigravity', 'this', 'idlelib', 'tkinter', 'turtle', 'turtledemo', 'lib2to3', 'msilib', 'winreg', 'winsound',"
        " 'msvcrt', 'nt', 'ossaudiodev', 'spwd', 'nis'}\ndef f(x):\n  for name in sorted(sys.stdlib_module_names):\n"
        "    if name.startswith('_') or name in skip: continue\n    try: importlib.import_module(name)\n    except ModuleNotFoundError: pass\n  return x * 400"
    ),
}  # fmt: skip


FIXED_DEPTH = pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 14), reason="functions of C go only so deep here, whatever limit a program sets"
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[FIXED_DEPTH] * name.startswith("functools.cache")) for name in FUNCTIONS]
)
@pytest.mark.thinned(3)
def test_functions_do_what_they_do_elsewhere(sandbox: Sandbox, name: str):
    result = call(sandbox, FUNCTIONS[name], 42)
    assert (result.status, result.value) == ("ok", 16800), result


def test_values_keep_their_exact_types_both_ways(sandbox: Sandbox):
    value = [None, True, 1, 1.0, -0.0, math.inf, 1j, "ü", b"\0", (1, [2]), {1: {2}}, frozenset({3}), 10**6000]
    result = call(sandbox, "def f(x): return x, [type(item).__name__ for item in x]", value)
    assert result.value[0] == value
    assert result.value[1] == [type(item).__name__ for item in value]
    assert [type(item) for item in result.value[0]] == [type(item) for item in value]
    nan = call(sandbox, "import collections\ndef f(): return float('nan'), collections.Counter('aab')").value
    assert math.isnan(nan[0])
    assert nan[1] == {"a": 2, "b": 1}


def test_one_call_does_not_see_what_another_did_to_its_arguments(sandbox: Sandbox):
    shared = [3, 1, 2]
    results = sandbox.calls("def f(x):\n  x.sort()\n  x.append(0)\n  return x", "f", [[shared], [shared]], timeout=20)
    assert [result.value for result in results] == [[1, 2, 3, 0]] * 2
    assert shared == [3, 1, 2]


def test_calls_go_on_after_an_exception_and_end_with_the_process(sandbox: Sandbox):
    program = "import sys\ndef f(x):\n  if x == 0: return 1 / x\n  if x < 0: sys.exit()\n  return x"
    results = list(sandbox.calls(program, "f", [[1], [0], [2], [-1], [3]], timeout=20))
    assert [(result.status, result.value) for result in results] == [
        ("ok", 1),
        ("exception", None),
        ("ok", 2),
        ("exit", None),
    ]
    assert results[1].message == "ZeroDivisionError: division by zero"
    assert not list(sandbox.calls(program, "f", [], timeout=20))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("def g(): pass", "NameError: the program defines no 'f'"),
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("class Solution:\n  def __init__(self, x): pass\n  def f(self): pass", "TypeError"),
        ("def f(): raise ValueError('x' * 1000)", "ValueError: xxx"),
        ("f = 3", "TypeError"),
    ],
)
def test_what_went_wrong_is_told(sandbox: Sandbox, program: str, message: str):
    results = list(sandbox.calls(program, "f", [[], []], timeout=20))
    assert results[0].status == "exception"
    assert results[0].message.startswith(message)
    assert len(results[0].message) <= 300


def test_the_same_program_gives_the_same_result(sandbox: Sandbox):
    """Sets of strings are ordered by their hashes."""
    program = "def f(): return [list({str(i) for i in range(50)}), __import__('os').environ.get('SECRET')]"
    assert call(sandbox, program).value == call(sandbox, program).value


def test_the_environment_is_not_inherited(sandbox: Sandbox, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    result = call(sandbox, "import os, sys\ndef f(): return dict(os.environ), sys.argv, os.getcwd()").value
    assert "hunter2" not in str(result)
    assert set(result[0]) <= {
        "PATH",
        "HOME",
        "PWD",
        "LC_ALL",
        "LC_CTYPE",
        "PYTHONHASHSEED",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
    }
    assert call(sandbox, "import lit_uniopd\ndef f(): return 1").status == "exception"


def test_names_of_a_data_set_row_are_exported(sandbox: Sandbox):
    prelude = "import numpy\ninputs = [[1, (2,)], {'a': {1.5}}]\ndef ref(x): return x\nresults = [ref(x) for x in inputs]\nbad = numpy.zeros(2)"
    assert sandbox.export(prelude, ["inputs", "results"], timeout=20) == {
        "inputs": [[1, (2,)], {"a": {1.5}}],
        "results": [[1, (2,)], {"a": {1.5}}],
    }
    for names, reason in [(["missing"], "missing"), (["bad"], "numpy.ndarray"), (["ref"], "function")]:
        with pytest.raises(ExportError, match=reason):
            sandbox.export(prelude, names, timeout=20)
    with pytest.raises(ExportError, match="timeout"):
        sandbox.export("while True: pass", [], timeout=0.3)


def test_one_sandbox_serves_many_threads(sandbox: Sandbox):
    def run(i: int):
        results = sandbox.calls("def f(x, y): return x * y", "f", [[i, k] for k in range(5)], timeout=30)
        return [result.value for result in results], sandbox.stdio("print(input())", str(i), timeout=30).stdout

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(24))) == [([i * k for k in range(5)], f"{i}\n") for i in range(24)]
    assert threading.active_count() < 10


def test_descriptors_are_given_back(sandbox: Sandbox):
    import os

    call(sandbox, "def f(): pass")
    before = len(os.listdir("/proc/self/fd"))
    for program in ("def f(): pass", "def f(): 1/0", "import os\nos._exit(3)"):
        call(sandbox, program)
        sandbox.stdio(program, "", timeout=20)
    assert len(os.listdir("/proc/self/fd")) == before


def test_programmers_mistakes_are_told_at_once(sandbox: Sandbox):
    with pytest.raises(ValueError, match=r"calls\[1\]"):
        sandbox.calls("", "f", [[1], [collections.deque()]], timeout=1)
    with pytest.raises(ValueError, match="timeout"):
        sandbox.calls("", "f", [[1], [2]], timeout=[1.0])
    with pytest.raises(ValueError, match="timeout"):
        sandbox.calls("", "f", [[1]], timeout=0)
    with pytest.raises(ValueError, match="memory_bytes"):
        Limits(memory_bytes=0)


def test_importing_it_is_light():
    code = "import lit_uniopd.sandbox, sys; print([m for m in ('torch', 'numpy', 'lightning') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
