"""What belongs to the user outside of the sandbox, and programs that try to get at it.

    PYTHONPATH=.:tests python -m sandbox.outside

writes the table of docs/evaluation.md from what they manage on this machine.
"""

import contextlib
import ctypes
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

from sandbox.attacks import REPOSITORY, marker

from lit_uniopd.sandbox import Sandbox, SandboxArgs, backends

SECRET = b"SECRET-EXPECTED-42"
PAGE = REPOSITORY / "docs" / "evaluation.md"
BEGIN, END = "<!-- attacks: written by tests/sandbox/outside.py -->\n", "<!-- end of attacks -->\n"
_CREATE, _REMOVE = 0o1000 | 0o600, 0

# name in the table: what a program runs; it managed if this is true and raises nothing
ATTACKS = {
    "read a file": "open(u['file'], 'rb').read()",
    "read a file by a symbolic link": "open(u['link'], 'rb').read()",
    "list a directory": "os.listdir(u['directory'])",
    "overwrite a file": "open(u['file'], 'wb').write(b'x')",
    "empty a file (truncate)": "os.truncate(u['file'], 0) or True",
    "empty a file (opened for neither reading nor writing)": "os.open(u['file'], 3 | os.O_TRUNC) >= 0",
    "empty a file (opened for reading)": "os.open(u['file'], os.O_TRUNC) >= 0",
    # Answers after the guards' and before anything is emptied: -1 is no length, and a module no directory.
    "empty an installed module": (
        "any(answers(e, f) for e, f in ((22, lambda: os.truncate(os.__file__, -1)), "
        "(20, lambda: os.open(os.__file__, os.O_TRUNC | os.O_DIRECTORY))))"
    ),
    "create a file": "open(u['directory'] + '/new', 'wb')",
    "remove or rename a file": "[os.rename(u['file'], u['file'] + '2')] and [os.unlink(u['file'] + '2')]",
    "change mode, owner, times, attributes": (
        "any(worked(f) for f in (lambda: os.chmod(u['file'], 0o777), lambda: os.utime(u['file']), "
        "lambda: os.chown(u['file'], 1, 1), lambda: os.setxattr(u['file'], 'user.b', b'x')))"
    ),
    "lease or lock a file": (
        "any(worked(f) for f in (lambda: fcntl.flock(open(os.__file__), fcntl.LOCK_EX), "
        "lambda: fcntl.fcntl(open(os.__file__), 1024, 1)))"
    ),
    "read System V shared memory": "attached(libc.shmat(u['shm'], None, 0o10000))",
    "write System V shared memory": "attached(libc.shmat(u['shm'], None, 0), b'x')",
    "create System V shared memory, which outlives it": "libc.shmget(0, 4096, 0o1600) >= 0",
    "read System V semaphores": "libc.semctl(u['sem'], 0, 12) == 7",
    "change System V semaphores": "libc.semop(u['sem'], struct.pack('<Hhh', 0, -1, 0o4000), 1) == 0",
    "take messages from System V queues": "libc.msgrcv(u['msg'], buffer, 64, 0, 0o4000) > 0",
    "send to System V queues": "libc.msgsnd(u['msg'], struct.pack('<q', 1) + b'x', 1, 0o4000) == 0",
    "remove System V memory, semaphores and queues": (
        "(libc.shmctl(u['shm'], 0, None), libc.semctl(u['sem'], 0, 0), libc.msgctl(u['msg'], 0, None)) != (-1,) * 3"
    ),
    "open POSIX queues": "u['mq'] and libc.mq_open(u['mq'], 0) >= 0",
    "remove POSIX queues": "u['mq'] and libc.mq_unlink(u['mq']) == 0",
    "read POSIX shared memory": "open('/dev/shm/' + u['posix_shm'], 'rb').read()",
    "connect by TCP": "socket.create_connection(('127.0.0.1', u['tcp']), 2)",
    "send by UDP": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', u['tcp']))",
    "start a process": "os.fork() >= 0",
    "run a program": "subprocess.run(['/bin/true']).returncode == 0",
    "signal the parent": "[os.kill(u['pid'], 0)]",
    "read the parent's memory": "open(f\"/proc/{u['pid']}/mem\", 'rb')",
    "use io_uring, which goes past filters": "libc.syscall(425, 1, buffer) >= 0",
    "make a system call of a later kernel": "libc.syscall(999, 0, 0, 0) != -1 or ctypes.get_errno() != 38",
    "find out by stat that a file exists, its size and times": "[os.stat(u['file']).st_size]",
    "find out a link's target": "os.readlink(u['link'])",
    "read a file's extended attributes": "[os.listxattr(u['file'])]",
    "read the parent's environment in /proc": "open(f\"/proc/{u['pid']}/environ\", 'rb').read(1)",
    "list the processes": "os.listdir('/proc')",
    "find out by stat which processes exist": "os.stat(f\"/proc/{u['pid']}\")",
    "find out the host's name": "socket.gethostname() == u['host']",
}

PROGRAM = """
import ctypes, fcntl, os, socket, struct, subprocess
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
buffer = ctypes.create_string_buffer(256)
def worked(action):
    try: return action() or True
    except OSError: return False
def answers(code, action):
    try: return action() or True
    except OSError as error: return error.errno == code
def attached(address, write=b""):
    if address in (None, 2**64 - 1): return False
    if write: ctypes.memmove(address, write, len(write))
    return ctypes.string_at(address, 18)
def f(u, attacks):
    managed = []
    for name, attack in attacks.items():
        try:
            if eval(attack, {**globals(), "u": u}): managed.append(name)
        except OSError: pass
    return managed
"""


@contextlib.contextmanager
def belongings(directory: Path) -> Iterator[dict[str, Any]]:
    """One of each kind of thing a user can have, by name; where the machine lacks a kind, an id that is nobody's."""
    file, link, name = directory / "file", directory / "link", marker()
    file.write_bytes(SECRET)
    link.symlink_to(file)
    with contextlib.suppress(OSError):
        os.setxattr(file, "user.secret", SECRET)
    libc = ctypes.CDLL(None, use_errno=True)
    shm, sem, msg = libc.shmget(0, 4096, _CREATE), libc.semget(0, 1, _CREATE), libc.msgget(0, _CREATE)
    memory = SharedMemory(name, create=True, size=64)
    queue = f"/{name}".encode()
    opened = libc.mq_open(queue, os.O_CREAT | os.O_RDWR, 0o600, None)
    libc.semctl(sem, 0, 16, 7)  # SETVAL
    libc.msgsnd(msg, struct.pack("<q", 1) + SECRET, len(SECRET), 0)
    try:
        write_shared(shm, SECRET)
        with socket.create_server(("127.0.0.1", 0)) as tcp:
            yield {
                "directory": str(directory), "file": str(file), "link": str(link), "shm": shm, "sem": sem, "msg": msg,
                "mq": queue if opened >= 0 else b"", "posix_shm": name, "tcp": tcp.getsockname()[1], "pid": os.getpid(),
                "host": socket.gethostname(),
            }  # fmt: skip
    finally:
        libc.shmctl(shm, _REMOVE, None)
        libc.semctl(sem, 0, _REMOVE)
        libc.msgctl(msg, _REMOVE, None)
        libc.mq_unlink(queue)
        if opened >= 0:
            os.close(opened)
        memory.close()
        memory.unlink()


def write_shared(shm: int, data: bytes) -> None:
    address = _attach(shm)
    if address is not None:
        ctypes.memmove(address, data, len(data))
        ctypes.CDLL(None).shmdt(ctypes.c_void_p(address))


def untouched(user: dict[str, Any]) -> bool:
    """Whether everything is still there as it was made."""
    libc, file = ctypes.CDLL(None), Path(user["file"])
    address = _attach(user["shm"])
    return (
        file.read_bytes() == SECRET
        and sorted(path.name for path in file.parent.iterdir()) == ["file", "link"]
        and file.stat().st_mode & 0o777 != 0o777
        and (address is None or ctypes.string_at(address, len(SECRET)) == SECRET)
        and libc.semctl(user["sem"], 0, 12) in (7, -1)  # GETVAL
        and (not user["mq"] or _exists(user["mq"]))
    )


def _exists(queue: bytes) -> bool:
    opened = ctypes.CDLL(None).mq_open(queue, os.O_RDONLY)
    if opened >= 0:
        os.close(opened)
    return opened >= 0


def _attach(shm: int) -> int | None:
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(shm, None, 0)
    return None if address in (None, 2**64 - 1) else address


def verdicts(sandbox: Sandbox, directory: Path) -> dict[str, str]:
    """For each attack, whether this sandbox refused it."""
    with belongings(directory) as user:
        result = next(iter(sandbox.calls(PROGRAM, "f", [[user, ATTACKS]], timeout=60)))
        assert result.status == "ok", result
        assert untouched(user), result
    return {name: "possible" if name in result.value else "refused" for name in ATTACKS}


def table(columns: dict[str, dict[str, str]]) -> str:
    """The table in Markdown, from the verdicts by backend."""
    rows = [["a program tries to", *columns], ["---"] * (len(columns) + 1)]
    rows += [[name, *(column[name] for column in columns.values())] for name in ATTACKS]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def read_table() -> dict[str, dict[str, str]]:
    """The verdicts by backend that the page states."""
    lines = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {backend: {row[0]: row[i] for row in rows} for i, backend in enumerate(header) if i}


def main() -> None:
    columns = {}
    for backend in backends.SAFE:
        with tempfile.TemporaryDirectory() as directory:
            columns[backend] = verdicts(Sandbox(SandboxArgs(backend=backend)), Path(directory))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(columns) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
