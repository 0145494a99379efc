"""Running untrusted programs."""

import math
import time
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from lit_uniopd.sandbox import backends
from lit_uniopd.sandbox.child import encoding
from lit_uniopd.sandbox.process import OutOfTurnError, SandboxedProcess, StartError, TooMuchOutputError
from lit_uniopd.sandbox.types import CallResult, ExportError, Limits, SandboxArgs, Status, StdioResult

MESSAGE_CHARACTERS = 300
_MESSAGE_BYTES = 1 << 14
"""Room for what went wrong, which takes the place of a result."""
_MAX_INPUT_BYTES = 1 << 30
_NO_ARGUMENT = encoding.encode(None, 1)


class Sandbox:
    """Runs model-written Python programs, each in a fresh process that sees inputs and never expected results.

    One object may serve several threads at once. Everything a program sends back is data: the caller compares.
    """

    def __init__(self, args: SandboxArgs | None = None, limits: Limits | None = None) -> None:
        self.args = args or SandboxArgs()
        self.limits = limits or Limits()

    @property
    def backend(self) -> str:
        """The backend in use; on first use in this process a canary tries to break out of it.

        Raises:
            UserError: if the requested one does not hold here, or none does.
        """
        return backends.choose(self.args.backend, self.args.allow_unsafe)

    def calls(
        self,
        program: str,
        entry_point: str,
        calls: Iterable[Sequence[Any]],
        *,
        timeout: float | Sequence[float],
        load_timeout: float = 10.0,
        budget: float | None = None,
        result_bytes: Sequence[int] | None = None,
    ) -> Generator[CallResult, None, None]:
        """Call one function of a program, one call after the other in one process.

        The child sees the arguments of a call only when that call begins. Results are yielded as they arrive; closing
        the iterator kills the child. After a failure that makes further calls impossible (the program did not load, the
        process ended or was killed), the iterator ends.

        Args:
            program: source text; its ``__name__`` is not ``"__main__"`` and what it prints is discarded.
            entry_point: a module-level name, or else a method of a class ``Solution`` that takes no arguments.
            calls: positional arguments, plain data, of each call. Every call gets a copy of its own.
            timeout: wall seconds per call, or one number for each call.
            load_timeout: wall seconds to run the program's top level.
            budget: wall seconds of the top level and all calls together; what runs when they are over is a ``timeout``.
            result_bytes: most bytes of each encoded result; a longer one is not decoded and its status is ``output``.
                None: the limit of all output.

        Raises:
            UserError: if no backend works.
            ValueError: if the arguments of a call are not plain data, or ``timeout`` has too few numbers or one that is
                not positive.
        """
        requests = [_encode_arguments(i, arguments) for i, arguments in enumerate(calls)]
        timeouts = [float(timeout)] * len(requests) if isinstance(timeout, int | float) else list(timeout)
        if len(timeouts) < len(requests):
            raise ValueError(f"timeout has {len(timeouts)} numbers for {len(requests)} calls")
        budget = math.inf if budget is None else budget
        if min([load_timeout, budget, *timeouts]) <= 0:
            raise ValueError("timeout, load_timeout and budget must be positive")
        sizes = result_bytes or [self.limits.output_bytes] * len(requests)
        job = {"mode": "calls", "program": program, "entry_point": entry_point}
        # The top level is the first request.
        steps = [(_NO_ARGUMENT, load_timeout, _MESSAGE_BYTES), *zip(requests, timeouts, sizes, strict=False)]
        return self._calls(self.backend, job, steps if requests else [], budget)

    def _calls(
        self, backend: str, job: dict[str, Any], steps: list[tuple[bytes, float, int]], budget: float
    ) -> Generator[CallResult, None, None]:
        if not steps:
            return
        try:
            with backends.started(backend, self.limits, job) as process:
                deadline = time.monotonic() + budget
                for number, (request, seconds, size) in enumerate(steps):
                    process.limit_answer(min(max(size, _MESSAGE_BYTES), self.limits.output_bytes))
                    result, alive = _ask(process, request, min(seconds, deadline - time.monotonic()))
                    loaded = number > 0
                    if loaded or result.status != "ok":
                        yield result
                    if not alive or not (loaded or result.status == "ok"):
                        return
        except StartError as error:
            yield CallResult(None, "error", 0.0, str(error)[-MESSAGE_CHARACTERS:])

    def stdio(self, program: str, stdin: str, *, timeout: float) -> StdioResult:
        """Run a program as ``__main__`` with this standard input, for at most ``timeout`` wall seconds.

        Raises:
            UserError: if no backend works.
        """
        try:
            with backends.started(self.backend, self.limits, {"mode": "stdio", "program": program}) as process:
                return _run(process, stdin.encode("utf-8", "surrogateescape"), timeout)
        except StartError as error:
            return StdioResult("", "error", None, 0.0, str(error)[-MESSAGE_CHARACTERS:])

    def export(self, program: str, names: Sequence[str], *, timeout: float) -> dict[str, Any]:
        """Run a program and return the plain data that these module-level names hold.

        Raises:
            UserError: if no backend works.
            ExportError: if the program fails, lacks a name, or a value is not plain data.
        """
        job = {"mode": "export", "program": program, "names": list(names)}
        try:
            with backends.started(self.backend, self.limits, job) as process:
                result, _ = _ask(process, _NO_ARGUMENT, timeout)
        except StartError as error:
            raise ExportError(f"the sandbox failed: {error}") from error
        if result.status != "ok" or type(result.value) is not dict:
            raise ExportError(f"{result.status}: {result.message}")
        return result.value


def _encode_arguments(index: int, arguments: Sequence[Any]) -> bytes:
    try:
        return encoding.encode(list(arguments), _MAX_INPUT_BYTES)
    except (encoding.NotPlainError, encoding.TooLargeError) as error:
        raise ValueError(f"the arguments of calls[{index}] cannot be sent: {error}") from error


def _ask(process: SandboxedProcess, request: bytes, seconds: float) -> tuple[CallResult, bool]:
    """The result of one request, and whether the child can take another."""
    start = time.monotonic()
    seconds = max(seconds, 0.0)

    def failed(status: Status, message: str) -> tuple[CallResult, bool]:
        return CallResult(None, status, time.monotonic() - start, message[:MESSAGE_CHARACTERS]), False

    try:
        kind, body = process.ask(request, start + seconds)
        value = encoding.decode(body)
    except TimeoutError:
        return failed("timeout", f"no result within {seconds:g} s")
    except TooMuchOutputError as error:
        return failed("output", str(error))
    except (OutOfTurnError, encoding.MalformedError) as error:
        return failed("not_plain", str(error))
    except EOFError:
        process.drain_stderr()
        code = process.returncode()
        return failed("exit", f"the process ended ({code}) {process.last_words()[-200:]}")
    elapsed = time.monotonic() - start
    if kind == "ok":
        return CallResult(value, "ok", elapsed), True
    if kind == "ready" or type(value) is not str:
        return failed("not_plain", "the program wrote to the result pipe")
    return CallResult(None, kind, elapsed, value[:MESSAGE_CHARACTERS]), kind != "exit"


def _run(process: SandboxedProcess, stdin: bytes, seconds: float) -> StdioResult:
    start = time.monotonic()
    code: int | None = None
    status: Status
    try:
        code = process.communicate(stdin, start + seconds)
        status, message = _judge(code, process.last_words())
    except TimeoutError:
        status, message = "timeout", f"not done within {seconds:g} s"
    except TooMuchOutputError as error:
        status, message = "output", str(error)
    assert process.stdout is not None
    stdout = bytes(process.stdout.data[: process.stdout.limit]).decode("utf-8", "replace")
    return StdioResult(stdout, status, code, time.monotonic() - start, message)


def _judge(code: int, stderr: str) -> tuple[Status, str]:
    message = stderr[-MESSAGE_CHARACTERS:]
    if code == 0:
        return "ok", message
    last_line = stderr.rpartition("\n")[2]
    if last_line.startswith("MemoryError"):
        return "memory", message
    return ("exception" if code == 1 and "Traceback" in stderr else "exit"), message
