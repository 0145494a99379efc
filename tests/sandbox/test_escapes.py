"""Programs that want out, or to stay: none may, in any backend that works here."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox.attacks import REPOSITORY, attempts, first, marker

from lit_uniopd.sandbox import Sandbox, backends
from lit_uniopd.sandbox.child import seccomp

# Escape ----------------------------------------------------------------------------------------------------------------


def test_nothing_outside_can_be_read(sandbox: Sandbox, tmp_path: Path):
    (tmp_path / "marker").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "marker")
    pid = os.getpid()
    paths = [
        *(str(tmp_path / name) for name in ("marker", "link")),
        *map(str, (REPOSITORY / "pyproject.toml", REPOSITORY / "lit_uniopd" / "__init__.py", Path(__file__))),
        *(f"/proc/{pid}/{name}" for name in ("environ", "mem", "maps", "cmdline", "root/etc/passwd", "cwd/pyproject.toml")),
        *(f"/proc/{pid}/fd/{fd}" for fd in range(20)),
        "/etc/passwd", "/etc/shadow", "/etc/hostname", "/proc/1/root/etc/passwd",
    ]  # fmt: skip
    directories = [
        str(path) for path in (tmp_path, REPOSITORY, Path.home(), Path("/etc"), Path("/home"), Path("/root"))
    ]
    program = """
        import glob, os
        def read(path):
            with open(path, "rb") as file: return file.read(1)
        def f(paths, directories, parents):
            for path in paths: attempt(path, lambda: read(path))
            for path in directories: attempt(path, lambda: [name for name in os.listdir(path) if name not in parents])
            for path in (f"/proc/{os.getppid()}/environ", f"/proc/{os.getppid()}/mem", f"/proc/self/cwd/etc/passwd"):
                if os.getppid(): attempt(path, lambda: read(path))
            return managed
    """
    assert Path(f"/proc/{pid}/environ").read_bytes()
    # In the private view of bubblewrap, the directories on the way to the interpreter exist and hold nothing else.
    on_the_way = sorted({name for path in backends.readable() for name in Path(path).parts})
    assert attempts(sandbox, program, paths, directories, on_the_way) == []


def test_nothing_can_be_written_or_changed(sandbox: Sandbox, tmp_path: Path):
    (tmp_path / "marker").write_text("secret")
    before = (tmp_path / "marker").stat()
    places = [
        tmp_path,
        REPOSITORY,
        Path.home(),
        *map(Path, ("/", "/tmp", "/var/tmp", "/dev/shm", "/run", "/dev", "/usr/lib", ".")),
    ]
    program = """
        import ctypes, os, shutil, tempfile
        from pathlib import Path
        def write(path):
            with open(path, "w") as file: file.write("x" * 100)
        def f(places, marker):
            for place in places:
                attempt(f"write {place}", lambda: write(place + "/sandbox-attack"))
                attempt(f"mkdir {place}", lambda: os.mkdir(place + "/sandbox-attack-directory"))
                attempt(f"symlink {place}", lambda: os.symlink("/", place + "/sandbox-attack-link"))
            attempt("tempfile", tempfile.TemporaryFile)
            attempt("memfd", lambda: os.memfd_create("x"))
            for name in ("unlink", "rmdir", "truncate", "chmod", "utime", "chown", "setxattr", "rename", "link"):
                more = dict(truncate=(0,), chmod=(0,), chown=(1, 1), setxattr=("user.x", b""), rename=(marker + "2",), link=(marker + "2",))
                attempt(name, lambda: getattr(os, name)(marker, *more.get(name, ())) or True)
            attempt("chmod of the library", lambda: os.chmod(os.__file__, 0o777) or True)
            attempt("mount", lambda: ctypes.CDLL(None).mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0)
            attempt("shmget", lambda: ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0)
            return managed
    """
    assert attempts(sandbox, program, list(map(str, places)), str(tmp_path / "marker")) == []
    after = (tmp_path / "marker").stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, before.st_size)
    assert [path.name for path in tmp_path.iterdir()] == ["marker"]


def test_there_is_no_network(sandbox: Sandbox, tmp_path: Path):
    program = """
        import asyncio, socket
        def send(kind, address, family=socket.AF_INET):
            with socket.socket(family, kind) as s:
                s.settimeout(2)
                s.connect(address)
                s.send(b"x")
                return True
        def past_a_pair(address):
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            return pair[0].sendto(b"x", address)
        def f(tcp, udp, path, abstract):
            attempt("tcp", lambda: send(socket.SOCK_STREAM, ("127.0.0.1", tcp)))
            attempt("udp", lambda: send(socket.SOCK_DGRAM, ("127.0.0.1", udp)))
            attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)))
            attempt("names", lambda: socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)[0][4] and socket.gethostbyname("example.org"))
            for address in (path, abstract):
                attempt(f"unix {address}", lambda: send(socket.SOCK_DGRAM, address, socket.AF_UNIX))
                attempt(f"pair {address}", lambda: past_a_pair(address))
            return managed
    """
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        names = [f"{tmp_path}/s", "\0" + marker()]
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as by_path,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract,
        ):
            by_path.bind(names[0])
            abstract.bind(names[1])
            assert attempts(sandbox, program, tcp.getsockname()[1], udp.getsockname()[1], *names) == []
            for receiver in (udp, by_path, abstract):
                receiver.setblocking(False)
                with pytest.raises(BlockingIOError):
                    receiver.recv(1)


def test_other_processes_are_out_of_reach(sandbox: Sandbox):
    program = """
        import ctypes, os, resource, signal
        def f(parent):
            libc = ctypes.CDLL(None, use_errno=True)
            for pid in (parent, os.getppid(), -1, 0, -parent):
                if pid or os.getppid():
                    attempt(f"kill {pid}", lambda: os.kill(pid, signal.SIGTERM) or True)
                    attempt(f"probe {pid}", lambda: os.kill(pid, 0) or True)
            attempt("killpg", lambda: os.killpg(os.getpgrp(), signal.SIGTERM) or True)
            attempt("ptrace attach", lambda: libc.ptrace(16, parent, 0, 0) == 0)
            attempt("ptrace traceme", lambda: libc.ptrace(0, 0, 0, 0) == 0)
            attempt("pidfd", lambda: os.pidfd_open(parent))
            attempt("limits", lambda: resource.prlimit(parent, resource.RLIMIT_CORE))
            attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, parent, 19) or True)
            attempt("affinity", lambda: os.sched_setaffinity(parent, {0}) or True)
            buffer = ctypes.create_string_buffer(8)
            attempt("read memory", lambda: libc.process_vm_readv(parent, buffer, 1, buffer, 1, 0) >= 0)
            attempt("more memory", lambda: resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2) or True)
            attempt("become another", lambda: os.setuid(12345) or True)
            return managed
    """
    assert attempts(sandbox, program, os.getpid()) == []


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="a second calling convention of x86-64")
def test_the_filter_has_no_second_door(sandbox: Sandbox):
    program = """
        import ctypes
        def f(_):
            attempt("x32 socket", lambda: ctypes.CDLL(None).syscall(0x40000000 + 41, 2, 1, 0) >= 0)
            attempt("io_uring", lambda: ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(200)) >= 0)
            return managed
    """
    assert attempts(sandbox, program, 0) == []


@pytest.mark.skipif(os.uname().machine not in seccomp.AUDIT_ARCH, reason="the filter does not know this machine")
def test_the_kernel_refuses_every_call_that_is_not_listed(sandbox: Sandbox):
    program = """
        import ctypes
        def f(numbers):
            libc = ctypes.CDLL(None, use_errno=True)
            answers = {}
            for number in numbers:
                ctypes.set_errno(0)
                answers[number] = libc.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno()
            return answers
    """
    column = list(seccomp.AUDIT_ARCH).index(os.uname().machine)
    listed = {numbers[column] for numbers in (seccomp.ALLOWED | seccomp.CONDITIONAL).values()}
    # uretprobe and uprobe of x86-64 pass every filter by the kernel's design; elsewhere than in its own code they kill the
    # caller. Other machines have nothing there.
    refused = [number for number in range(1000) if number not in {*listed, 335, 336}]
    expected = {number: (-1, errno.EPERM if number < seccomp.FIRST_NEW else errno.ENOSYS) for number in refused}
    assert first(sandbox, program, refused).value == expected


# What stays behind -----------------------------------------------------------------------------------------------------

LINGERING = """
import ctypes, os, threading, time
ctypes.CDLL(None).prctl(15, b"{name}", 0, 0, 0)
def stay():
    while True: time.sleep(0.1)
for _ in range(2):
    try:
        if os.fork() == 0:
            os.setsid()
            stay()
    except OSError: pass
threading.Thread(target=stay).start()
"""


@pytest.mark.parametrize("end", ["return 1", "while True: pass", "os._exit(0)"])
def test_no_process_outlives_its_run(sandbox: Sandbox, running, wait_until, end: str):
    name = marker()
    program = LINGERING.format(name=name) + f"def f(x):\n  {end}"
    list(sandbox.calls(program, "f", [[1]], timeout=0.5))
    assert wait_until(lambda: not running(name))
    assert not running(name, or_zombie=True)


def test_closing_the_iterator_kills_the_child(sandbox: Sandbox, running, wait_until):
    name = marker()
    results = sandbox.calls(LINGERING.format(name=name) + "def f(x): return x", "f", [[1], [2]], timeout=10)
    assert next(iter(results)).value == 1
    assert running(name), "the check for survivors would find nothing"
    results.close()
    assert wait_until(lambda: not running(name))


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_parent(sandbox: Sandbox, running, wait_until, death: int):
    name = marker()
    program = LINGERING.format(name=name) + "def f(x):\n  while True: pass"
    script = (
        # A job in the background inherits that Ctrl-C is ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lit_uniopd.sandbox import Sandbox, SandboxArgs\n"
        f"list(Sandbox(SandboxArgs(backend={sandbox.args.backend!r})).calls({program!r}, 'f', [[1]], timeout=100))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: running(name))
    parent.send_signal(death)
    parent.wait(10)
    assert wait_until(lambda: not running(name))
