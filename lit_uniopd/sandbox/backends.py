"""Which kernel mechanism isolates a program, and the proof that it works on this machine.

A program can still use the processor until its deadline (all cores, with threads), use memory up to the limit, and read
the interpreter, the system's libraries and the installed packages. Under ``seccomp`` it can also find out by stat
whether a file or a process exists, how large a file is and when it changed, and the host's name. No backend protects
from kernel bugs (a virtual machine would); the filter leaves fewer of them within reach. No cgroup bounds the programs
of all sandboxes together: memory limits hold for each alone.
"""

import contextlib
import ctypes
import functools
import logging
import os
import shutil
import socket
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_uniopd.errors import UserError
from lit_uniopd.sandbox.child import encoding
from lit_uniopd.sandbox.process import OutOfTurnError, SandboxedProcess, StartError, TooMuchOutputError
from lit_uniopd.sandbox.types import Limits

log = logging.getLogger(__name__)

SAFE = ("bubblewrap", "unshare", "seccomp")
"""In order of preference. All of them also apply Landlock and seccomp, as far as the kernel has them."""
WRAPPED = ("bubblewrap", "unshare")
"""Backends that are programs of their own and stay the child's parent."""
_SYSTEM = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache",
           "/etc/localtime", "/usr/share/zoneinfo")  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_PROBE_S = 20.0
_GONE_S = 2.0

# Tries a socket, a file (also to empty it, which Landlock knows since Linux 6.2 only), the library, shared memory and a
# fork. The forked child leaves its session and sleeps, so that the parent can look for it.
CANARY = """
import ctypes, os, socket, time

def attempts(port, marker, memory):
    escapes = []
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
        escapes.append("open a network connection")
    except OSError:
        pass
    try:
        open(marker).close()
        escapes.append("read a file outside")
    except OSError:
        pass
    for empty in (lambda: os.truncate(marker, 0), lambda: os.close(os.open(marker, 3 | os.O_TRUNC))):
        try:
            empty()
            escapes.append("empty a file outside")
            break
        except OSError:
            pass
    try:
        os.close(os.open(os.__file__, os.O_WRONLY))
        escapes.append("write to the library")
    except OSError:
        pass
    attach = ctypes.CDLL(None).shmat
    attach.restype = ctypes.c_void_p
    if attach(memory, None, 0) not in (None, ctypes.c_void_p(-1).value):
        escapes.append("change shared memory")
    try:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.setsid()
            os.write(writer, b"x")
            time.sleep(5)
            os._exit(0)
        os.read(reader, 1)
        escapes.append("start processes without bound")
    except OSError:
        pass
    return escapes
"""


def environment() -> dict[str, str]:
    """The complete environment of a program."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/",
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        **dict.fromkeys(threads, "1"),
    }


@functools.cache
def python() -> tuple[str, ...]:
    """The interpreter's command: ``-P -s`` instead of ``-I``, which would ignore PYTHONHASHSEED."""
    flags = ("-P", "-s", "-S", "-B", "-X", "utf8", "-X", "int_max_str_digits=0", "-W", "ignore")
    return (os.path.realpath(sys.executable), *flags)


@functools.cache
def site_packages() -> tuple[str, ...]:
    """Where installed packages, numpy among them, are."""
    return tuple(path for path in dict.fromkeys(sys.path) if Path(path).name in ("site-packages", "dist-packages"))


@functools.cache
def readable() -> tuple[str, ...]:
    """The paths that a program can read: system libraries, the interpreter, installed packages."""
    library = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(sys.base_prefix) / "lib")]
    paths = [*_SYSTEM, python()[0], *library, *site_packages()]
    paths = [path for path in dict.fromkeys(paths) if os.path.exists(path)]
    return tuple(p for p in paths if not any(p != other and Path(other) in Path(p).parents for other in paths))


@functools.cache
def command(backend: str) -> tuple[str, ...]:
    """The command that runs the interpreter in this backend.

    Raises:
        StartError: if a program that it needs is not installed.
    """
    if backend == "bubblewrap":
        return (*_bubblewrap(), *python())
    if backend == "unshare":
        # Without setpriv, `unshare` itself would outlive a parent that is killed. The child itself empties the mount
        # namespace of everything that it may not read.
        namespaces = ["--user", "--map-root-user", "--net", "--pid", "--mount", "--ipc", "--uts"]
        prefix = (_tool("setpriv"), "--pdeathsig", "KILL", _tool("unshare"))
        return (*prefix, *namespaces, "--fork", "--kill-child", *python())
    return python()


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise StartError(f"{name} is not installed")
    return path


def _bubblewrap() -> list[str]:
    binds = [argument for path in readable() for argument in ("--ro-bind", path, path)]
    devices = [argument for path in _DEVICES if os.path.exists(path) for argument in ("--dev-bind", path, path)]
    streams = [("stdin", 0), ("stdout", 1), ("stderr", 2)]
    links = [argument for name, fd in streams for argument in ("--symlink", f"/proc/self/fd/{fd}", f"/dev/{name}")]
    keep = ["--unshare-all", "--unshare-user", "--hostname", "sandbox", "--cap-drop", "ALL", "--die-with-parent"]
    return [_tool("bwrap"), *keep, *binds, *devices, *links, "--proc", "/proc", "--remount-ro", "/", "--chdir", "/"]


@contextlib.contextmanager
def started(backend: str, limits: Limits, job: dict[str, Any]) -> Iterator[SandboxedProcess]:
    """A child that has its job and is ready; it is killed on leaving.

    Raises:
        StartError: if the backend fails.
    """
    confined = backend in SAFE
    job = {
        "entry_point": "",
        "names": [],
        **job,
        "limits": vars(limits),
        "max_bytes": limits.output_bytes,
        "confined": confined,
        "readable": list(readable()) if confined else [],
        "writable": list(_DEVICES),
        "private_view": backend == "unshare",
        "site": list(site_packages()),
        "parent": 0 if backend in WRAPPED else os.getpid(),
    }
    with contextlib.ExitStack() as stack:
        # Only the plain backend lets a program write, so only that one needs a directory that is removed afterwards.
        directory = "/" if confined else stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-"))
        variables = environment() if confined else {**environment(), "HOME": directory, "TMPDIR": directory}
        try:
            process = SandboxedProcess(
                command(backend),
                variables,
                directory,
                stdin=job["mode"] == "stdio",
                output_bytes=limits.output_bytes,
                wrapped=backend in WRAPPED,
            )
        except OSError as error:
            raise StartError(str(error)) from error
        with process:
            process.start(job)
            yield process


_choice_lock = threading.Lock()
_failures: dict[str, str | None] = {}
"""Outcome of each probe in this process: None, or what went wrong."""


def choose(backend: str, allow_unsafe: bool) -> str:
    """The backend to use: the named one, or the first that passes its probe. Each is probed once per process.

    Raises:
        UserError: if the named one fails, or none works.
    """
    if sys.platform == "win32":
        raise UserError("The sandbox.backend has none for Windows; run this in WSL, or leave out the code benchmarks.")
    if backend == "plain":
        return _announced("plain")
    with _choice_lock:
        for name in SAFE if backend == "auto" else (backend,):
            if name not in _failures:
                _failures[name] = probe(name)
            if _failures[name] is None:
                return _announced(name)
        reasons = "; ".join(f"{name}: {_failures[name]}" for name in (SAFE if backend == "auto" else (backend,)))
    if backend != "auto":
        raise UserError(f"sandbox.backend {backend} does not work here ({reasons}); choose auto.")
    if allow_unsafe:
        return _announced("plain")
    raise UserError(
        f"No sandbox works on this machine ({reasons}); install bubblewrap, or accept the risk with "
        "sandbox.allow_unsafe: true, or leave out the code benchmarks."
    )


@functools.cache
def _announced(name: str) -> str:
    if name == "plain":
        log.warning("Model-written programs run UNSAFELY: sandbox.allow_unsafe leaves them your files and network.")
    else:
        log.info("Programs run in the %s sandbox.", name)
    return name


def probe(backend: str) -> str | None:
    """Run a canary that tries to get out; None if it cannot, else what went wrong."""
    if sys.platform != "linux":
        return "needs Linux"
    try:
        with (
            tempfile.NamedTemporaryFile() as marker,
            socket.create_server(("127.0.0.1", 0)) as server,
            _shared_memory() as memory,
        ):
            return _run_canary(backend, [server.getsockname()[1], marker.name, memory])
    except StartError as error:
        return str(error).splitlines()[-1]
    except (EOFError, TimeoutError, OutOfTurnError, TooMuchOutputError, ValueError) as error:
        return f"the canary failed ({type(error).__name__} {error})"


@contextlib.contextmanager
def _shared_memory() -> Iterator[int]:
    """The id of a System V segment of this user; -1, which nobody has, where the kernel knows none."""
    libc = ctypes.CDLL(None)
    segment = libc.shmget(0, 4096, 0o1600)  # IPC_PRIVATE, IPC_CREAT and the owner's rights
    try:
        yield segment
    finally:
        libc.shmctl(segment, 0, None)  # IPC_RMID


def _run_canary(backend: str, arguments: list[Any]) -> str | None:
    job = {"mode": "calls", "program": CANARY, "entry_point": "attempts"}
    with started(backend, Limits(), job) as process:
        deadline = time.monotonic() + _PROBE_S
        for argument in (None, arguments):
            kind, body = process.ask(encoding.encode(argument, 1 << 20), deadline)
            if kind != "ok":
                return f"the canary failed ({kind} {encoding.decode(body)})"
        escapes = encoding.decode(body)
        if not process.all_gone(_GONE_S):
            escapes.append("leave a process behind")
    return f"a program can {', '.join(escapes)}" if escapes else None
