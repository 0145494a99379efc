"""One sandboxed process, seen from its parent."""

import contextlib
import functools
import marshal
import os
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from lit_uniopd.sandbox.child import encoding
from lit_uniopd.sandbox.child.pipe import HEADER, KINDS, LENGTH, NONCE_BYTES, Kind

START_LIMIT_S = 60.0
"""For the interpreter and the confinement, before the program is loaded: at worst from a cold network disk."""
_MODULES = ("encoding", "pipe", "landlock", "seccomp", "view", "confinement", "harness")
_STDERR_TAIL = 4096
_PIECE = 1 << 16

# The child cannot read this repository, so its code comes through the pipe, compiled once in this process.
BOOTSTRAP = """
import marshal, os, sys
requests, answers = int(sys.argv[1]), int(sys.argv[2])
def take(size):
    data = b""
    while len(data) < size:
        piece = os.read(requests, size - len(data))
        if not piece:
            os._exit(1)
        data += piece
    return data
for name, code in marshal.loads(take(int.from_bytes(take(4), "little"))):
    module = type(sys)(name)
    sys.modules[name] = module
    exec(code, module.__dict__)
module.main(requests, answers)
"""


class TooMuchOutputError(Exception):
    """A stream exceeded its limit."""


class OutOfTurnError(Exception):
    """A message of the child does not answer the request."""


class StartError(Exception):
    """The child failed before it loaded the program; the message says why."""


class Stream:
    """The bytes read so far from one of the child's descriptors."""

    def __init__(self, pipe: IO[bytes], limit: int, tail: bool = False) -> None:
        self.pipe, self.limit, self.tail = pipe, limit, tail
        self.data = bytearray()
        self.ended = False

    def close(self) -> None:
        """Stop reading."""
        self.ended = True
        with contextlib.suppress(OSError):
            self.pipe.close()

    def read(self) -> None:
        piece = os.read(self.pipe.fileno(), _PIECE)
        self.ended = not piece
        self.data += piece
        if len(self.data) > self.limit:
            if not self.tail:
                raise TooMuchOutputError(f"more than {self.limit} bytes")
            del self.data[: -self.limit]


class SandboxedProcess:
    """A running child; as a context manager it is killed on leaving.

    The kernel also kills it when the *thread* that made this object ends. Under the plain backend, processes that it
    started in sessions of their own survive both; under the others it cannot start any.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        directory: str,
        *,
        stdin: bool,
        output_bytes: int,
        wrapped: bool,
    ) -> None:
        """Start the child.

        Args:
            command: the interpreter with its flags, or a wrapper followed by these.
            environment: the child's complete environment.
            directory: where it starts.
            stdin: whether the program reads and writes its standard streams; else they are empty and discarded.
            output_bytes: limit of standard output and of one answer.
            wrapped: whether the command is a wrapper that waits for the interpreter.
        """
        self.wrapped = wrapped
        request_end, request_write = os.pipe()
        answer_read, answer_end = os.pipe()
        try:
            self.child = subprocess.Popen(
                [*command, "-c", BOOTSTRAP, str(request_end), str(answer_end)],
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=(request_end, answer_end),
                env=environment,
                cwd=directory,
                start_new_session=True,
            )
        except BaseException:
            os.close(request_write)
            os.close(answer_read)
            raise
        finally:
            os.close(request_end)
            os.close(answer_end)
        self.requests = os.fdopen(request_write, "wb", buffering=0)
        self.answers = Stream(os.fdopen(answer_read, "rb", buffering=0), HEADER.size + output_bytes)
        assert self.child.stderr is not None
        self.stderr = Stream(self.child.stderr, _STDERR_TAIL, tail=True)
        self.stdout = None if self.child.stdout is None else Stream(self.child.stdout, output_bytes)
        self._pending: dict[IO[bytes], memoryview] = {}

    def __enter__(self) -> "SandboxedProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for stream in self._streams():
            stream.close()
        for pipe in filter(None, (self.requests, self.child.stdin)):
            with contextlib.suppress(OSError):
                pipe.close()

    def start(self, job: dict[str, Any]) -> None:
        """Send the job and wait until the child is confined and ready, before it loads the program.

        Raises:
            StartError: if it does not.
        """
        code = _child_code()
        nonce = secrets.token_bytes(NONCE_BYTES)
        body = nonce + encoding.encode(job, 1 << 30)
        try:
            self._write(self.requests, LENGTH.pack(len(code)) + code + LENGTH.pack(len(body)) + body)
            kind, _ = self._answer_to(nonce, time.monotonic() + START_LIMIT_S)
        except (EOFError, TimeoutError, OutOfTurnError, TooMuchOutputError) as error:
            self.drain_stderr()
            self.kill()
            reason = self.last_words() or type(error).__name__
            raise StartError(reason) from error
        if kind != "ready":
            raise StartError(f"the child said {kind} and not ready")

    def ask(self, argument: bytes, deadline: float) -> tuple[Kind, bytes]:
        """Send one request (an encoded argument); return kind and body of the answer.

        ``deadline`` is on the monotonic clock.

        Raises:
            TimeoutError: if no answer came in time.
            EOFError: if the child ended instead.
            OutOfTurnError: if the child sent something else.
            TooMuchOutputError: if the answer exceeds the limit.
        """
        if self.answers.data:
            raise OutOfTurnError("the program wrote to the result pipe")
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._write(self.requests, LENGTH.pack(NONCE_BYTES + len(argument)) + nonce + argument)
        return self._answer_to(nonce, deadline)

    def limit_answer(self, max_bytes: int) -> None:
        """Take no answer with a body of more bytes from now on."""
        self.answers.limit = HEADER.size + max_bytes

    def communicate(self, stdin: bytes, deadline: float) -> int:
        """Feed standard input, collect `stdout`, and return the exit code.

        Raises:
            TimeoutError: if the program did not end in time.
            TooMuchOutputError: if it wrote more than the limit.
        """
        assert self.child.stdin is not None
        stdout = self.stdout
        assert stdout is not None
        self._write(self.child.stdin, stdin)
        self._pump(deadline, lambda: stdout.ended and self.stderr.ended)
        try:
            return self.child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error

    def returncode(self) -> int | None:
        """The exit code of a child that is about to end; None if it does not end within a second."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.child.wait(1.0)
        return None

    def drain_stderr(self, seconds: float = 0.5) -> None:
        """Read the rest of standard error, for messages."""
        with contextlib.suppress(TimeoutError):
            self._pump(time.monotonic() + seconds, lambda: self.stderr.ended)

    def last_words(self) -> str:
        """The end of standard error."""
        return bytes(self.stderr.data).decode("utf-8", "replace").strip()

    def all_gone(self, seconds: float) -> bool:
        """Kill the child; whether every process that held the result pipe is gone within this time."""
        self.kill()
        self.answers.data.clear()
        try:
            self._pump(time.monotonic() + seconds, lambda: self.answers.ended)
        except (TimeoutError, TooMuchOutputError):
            return False
        return True

    def kill(self) -> None:
        """End the process, its group, and with a wrapper the namespaces of both."""
        if self.wrapped and self.child.poll() is None:
            # Killed first, the wrapper could not reap its child: a zombie per run where nobody else does (containers).
            # Closed, so that a full pipe cannot block the wrapper while it writes its last message.
            self.stderr.close()
            for pid in self._children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(1.0)
        if self.child.returncode is None or not self.wrapped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def _children(self) -> list[int]:
        try:
            return [
                int(pid) for pid in Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
            ]
        except OSError:  # a kernel without this file
            return []

    def _answer_to(self, nonce: bytes, deadline: float) -> tuple[Kind, bytes]:
        data = self.answers.data
        self._pump(deadline, lambda: len(data) >= HEADER.size or self.answers.ended)
        if len(data) < HEADER.size:
            raise EOFError
        received, kind, length = HEADER.unpack_from(data)
        if received != nonce or kind >= len(KINDS):
            raise OutOfTurnError("the program wrote to the result pipe")
        size = HEADER.size + length
        if size > self.answers.limit:
            raise TooMuchOutputError(f"more than {self.answers.limit} bytes")
        self._pump(deadline, lambda: len(data) >= size or self.answers.ended)
        if len(data) < size:
            raise EOFError
        body = bytes(data[HEADER.size : size])
        del data[:size]
        return KINDS[kind], body

    def _write(self, pipe: IO[bytes], data: bytes) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._pending[pipe] = memoryview(data)

    def _streams(self) -> list[Stream]:
        return [stream for stream in (self.answers, self.stderr, self.stdout) if stream is not None]

    def _pump(self, deadline: float, done: Callable[[], bool]) -> None:
        """Move bytes in all directions until ``done``; TimeoutError at the deadline, whatever the child does."""
        with selectors.DefaultSelector() as selector:
            for stream in self._streams():
                if not stream.ended:
                    selector.register(stream.pipe, selectors.EVENT_READ, stream)
            for pipe in self._pending:
                selector.register(pipe, selectors.EVENT_WRITE)
            while not done():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError
                for key, _ in selector.select(remaining):
                    if isinstance(key.data, Stream):
                        key.data.read()
                        if key.data.ended:
                            selector.unregister(key.fileobj)
                    elif self._feed(key.fileobj):
                        selector.unregister(key.fileobj)

    def _feed(self, pipe: Any) -> bool:
        """Write what fits; True when everything is written."""
        try:
            unsent = self._pending[pipe][os.write(pipe.fileno(), self._pending[pipe][:_PIECE]) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:  # the child does not want the rest
            unsent = memoryview(b"")
        if unsent:
            self._pending[pipe] = unsent
            return False
        del self._pending[pipe]
        if pipe is self.child.stdin:
            pipe.close()
        return True


@functools.cache
def _child_code() -> bytes:
    codes = []
    for name in _MODULES:
        path = Path(__file__).parent / "child" / f"{name}.py"
        codes.append((f"lit_uniopd.sandbox.child.{name}", compile(path.read_bytes(), f"<sandbox {name}>", "exec")))
    return marshal.dumps(codes)
