"""The process that grading processes are forked from, seen from its parent.

It has imported sympy once, so that a grading process costs milliseconds: whatever stalls can be set aside, and a fresh
one goes on with what stands behind it. It answers at once, since it never grades; it ends with this process, and its
children with it.
"""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from lit_uniopd.errors import UserError
from lit_uniopd.rewards.pipe import receive

START_LIMIT_S = 120.0
"""It imports sympy, from a cold network disk at worst."""
NUMBER = struct.Struct("<q")
RUNNING = 1 << 40
"""Stands for the exit code of a process that has none yet."""


class ForkServer:
    """Starts with the first grading process, and again if it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def fork(self) -> "ForkedProcess":
        """A new grading process.

        Raises:
            UserError: if the server does not start or its graders do not work.
        """
        task_end, task_write = os.pipe()
        reply_read, reply_end = os.pipe()
        try:
            with self._lock:
                if self._process is None or self._process.poll() is not None:
                    self._start()
                socket.send_fds(self._socket, [b"f"], [task_end, reply_end])
                pid = self._number()
        except BaseException:
            os.close(task_write)
            os.close(reply_read)
            raise
        finally:
            os.close(task_end)
            os.close(reply_end)
        return ForkedProcess(self, pid, os.fdopen(task_write, "wb"), os.fdopen(reply_read, "rb"))

    def exit_code(self, pid: int, wait: bool) -> int | None:
        """The exit code of one of its processes; None while it runs."""
        try:
            with self._lock:
                self._socket.sendall((b"w" if wait else b"p") + NUMBER.pack(pid))
                code = self._number()
        except (OSError, EOFError):  # the server is gone, and its processes with it
            return -signal.SIGKILL
        return None if code == RUNNING else code

    def close(self) -> None:
        """End the server and all of its processes."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                self._socket.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(2.0)
                process.kill()
                process.wait()

    def _number(self) -> int:
        data = b""
        while len(data) < NUMBER.size:
            piece = self._socket.recv(NUMBER.size - len(data))
            if not piece:
                raise EOFError("the process that grading processes are forked from is gone")
            data += piece
        return NUMBER.unpack(data)[0]

    def _start(self) -> None:
        if not hasattr(os, "fork"):
            raise UserError("The grader `math` needs a system with fork; run this in WSL, or choose another grader.")
        environment = dict(os.environ)
        root = str(Path(__file__).parents[2])  # the project is run from a clone, in any directory
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        environment["PYTHONHASHSEED"] = "0"  # sympy's order of terms, and so its choices, depend on it
        command = [sys.executable, "-P", "-W", "ignore", "-m", "lit_uniopd.rewards.worker"]
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment)
        hello: dict[str, Any] = {}
        try:
            self._socket.settimeout(START_LIMIT_S)
            with self._socket.makefile("rb", buffering=0) as stream:
                hello = receive(stream)  # type: ignore[arg-type]
            self._socket.settimeout(None)
        except (EOFError, OSError, ValueError) as error:
            self._abandon()
            raise UserError(
                f"A grading process did not start ({error}); run `{sys.executable} -m lit_uniopd.rewards.worker` "
                "to see why."
            ) from error
        if "failed" in hello:
            self._abandon()
            raise UserError(
                f"The graders cannot be used: {str(hello['failed']).rstrip('.')}; install what `pyproject.toml` names."
            )

    def _abandon(self) -> None:
        self._socket.close()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


class ForkedProcess:
    """A grading process; the methods are those of ``subprocess.Popen``."""

    def __init__(self, server: ForkServer, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.exit_code(self.pid, wait=False)
        return self.returncode

    def kill(self) -> None:
        """End it. The server reaps it only when asked, so the number is still its own."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code of a process that is about to end."""
        if self.returncode is None:
            self.returncode = self._server.exit_code(self.pid, wait=True)
        return self.returncode if self.returncode is not None else -signal.SIGKILL
