"""One grading process, seen from its parent."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_uniopd.errors import UserError
from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import failed, unknown
from lit_uniopd.rewards.pipe import pack, receive, send

START_LIMIT_S = 120.0
"""A grading process imports sympy, from a cold network disk at worst."""


class GraderProcess:
    """A handle on one grading process, which starts with the first answer and again after each kill."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def grade(self, grader: str, gold: str, response: str, options: Mapping[str, Any], time_limit: float) -> Grade:
        """Judge one answer.

        Raises:
            UserError: if the process does not start or its graders do not work.
        """
        task = {"grader": grader, "gold": gold, "response": response, "options": dict(options), "limit": time_limit}
        try:
            message = pack(task)
        except (TypeError, ValueError) as error:  # options that are not plain data
            return failed(grader, type(error).__name__, str(error))
        child = self.child if self.child is not None and self.child.poll() is None else self._start()
        try:
            reply = self._exchange(child, message, time_limit)
        except TimeoutError:
            return unknown("timeout")
        except (EOFError, OSError, ValueError) as error:
            return failed(grader, type(error).__name__, str(error))
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
                stream.close()  # type: ignore[union-attr]
        return status

    def _start(self) -> subprocess.Popen[bytes]:
        self.kill()
        environment = dict(os.environ)
        root = str(Path(__file__).parents[2])  # the project is run from a clone, in any directory
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        environment["PYTHONHASHSEED"] = "0"  # sympy's order of terms, and so its choices, depend on it
        command = [sys.executable, "-P", "-W", "ignore", "-m", "lit_uniopd.rewards.worker"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.child = child
        try:
            hello = self._exchange(child, b"", START_LIMIT_S)
        except (EOFError, OSError, ValueError) as error:
            raise UserError(
                f"A grading process did not start ({error}); run `{sys.executable} -m lit_uniopd.rewards.worker` "
                "to see why."
            ) from error
        if "failed" in hello:
            self.kill()
            raise UserError(
                f"The graders cannot be used: {str(hello['failed']).rstrip('.')}; install what `pyproject.toml` names."
            )
        return child

    def _exchange(self, child: subprocess.Popen[bytes], task: bytes, limit: float) -> dict[str, Any]:
        """Send a task and wait for the reply; end the process if it does not come in time or at all.

        Raises:
            TimeoutError: if it did not come in time.
            EOFError, OSError, ValueError: if the process died, perhaps in the middle of its reply.
        """
        assert child.stdin is not None
        assert child.stdout is not None
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
            alarmed = sys.platform != "win32" and status == -signal.SIGALRM
            if isinstance(error, Exception) and (expired.is_set() or alarmed):
                raise TimeoutError(f"no reply within {limit:g} s") from error
            raise
        timer.cancel()
        timer.join()
        if expired.is_set():  # just after the reply: spare the next task
            self.kill()
        return reply
