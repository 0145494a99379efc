"""One grading process, seen from its parent."""

import contextlib
import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.fork_server import ForkedProcess, ForkServer
from lit_uniopd.rewards.grade import failed, unknown
from lit_uniopd.rewards.pipe import pack, receive, send

_CRASHES = (-signal.SIGSEGV, -signal.SIGABRT)
"""Exit codes of a process whose stack or memory an answer has used up."""


class GraderProcess:
    """A handle on one grading process, which starts with the first answer and again after each kill."""

    def __init__(self, server: ForkServer) -> None:
        self.child: ForkedProcess | None = None
        self._server = server
        self._owner = os.getpid()

    def start(self) -> ForkedProcess:
        """The process, started if it does not run.

        Raises:
            UserError: if it does not start or its graders do not work.
        """
        if self.child is None or self.child.poll() is not None:
            self.kill()
            self.child = self._server.fork()
        return self.child

    def grade(self, grader: str, gold: str, response: str, options: Mapping[str, Any], time_limit: float) -> Grade:
        """Judge one answer; the reason is ``timeout`` or ``memory`` if it was too much for the process.

        Raises:
            UserError: if the process does not start or its graders do not work.
        """
        task = {"grader": grader, "gold": gold, "response": response, "options": dict(options), "limit": time_limit}
        try:
            message = pack(task)
        except (TypeError, ValueError) as error:  # options that are not plain data
            return failed(grader, type(error).__name__, str(error))
        child = self.start()
        try:
            reply = self._exchange(child, message, time_limit)
        except TimeoutError:
            return unknown("timeout")
        except (EOFError, OSError, ValueError) as error:
            if child.returncode in _CRASHES:
                return unknown("memory")
            return failed(grader, type(error).__name__, str(error))
        if "killed" in reply:
            return unknown(reply["killed"])
        return failed(grader, *reply["error"]) if "error" in reply else Grade(**reply)

    def kill(self) -> int | None:
        """End the process, if it runs and is ours, and return its exit status."""
        if self._owner != os.getpid():  # a forked copy of the handle
            return None
        child, self.child = self.child, None
        if child is None:
            return None
        child.kill()
        status = child.wait()
        for stream in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):  # unwritten data of a broken pipe
                stream.close()
        return status

    def _exchange(self, child: ForkedProcess, task: bytes, limit: float) -> dict[str, Any]:
        """Send a task and wait for the reply; end the process if it does not come in time or at all.

        Raises:
            TimeoutError: if it did not come in time.
            EOFError, OSError, ValueError: if the process died, perhaps in the middle of its reply.
        """
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            child.kill()

        timer = threading.Timer(limit, expire)
        timer.daemon = True
        timer.start()
        try:
            send(child.stdin, task)
            reply = receive(child.stdout)
        except BaseException as error:
            timer.cancel()
            status = self.kill()  # a later reply to this task must not be taken for that to the next
            if isinstance(error, Exception) and (expired.is_set() or status == -signal.SIGALRM):
                raise TimeoutError(f"no reply within {limit:g} s") from error
            raise
        timer.cancel()
        timer.join()
        if expired.is_set():  # just after the reply: spare the next task
            self.kill()
        return reply
