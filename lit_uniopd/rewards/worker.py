"""A grading process: ``python -m lit_uniopd.rewards.worker``, started by `lit_uniopd.rewards.pool`.

It answers tasks from stdin on stdout until stdin ends. It is a fresh interpreter rather than a ``multiprocessing``
child: it inherits nothing (no CUDA context, no locks), works from notebooks and from scripts without a main guard, and
never imports torch.
"""

import logging
import os
import signal
import sys
from dataclasses import asdict
from typing import IO, Any

from lit_uniopd.rewards.mathematics import check_math_verify
from lit_uniopd.rewards.pipe import pack, receive, send
from lit_uniopd.rewards.registry import IN_WORKER

MEMORY_LIMIT = 4 << 30
"""Address space in bytes: an answer like 9^9^9^9 must not take the training process's memory with it."""
ORPHAN_GRACE_S = 1.0
"""Past the time limit by this much, the parent that should have killed this process must be dead."""


def main() -> None:
    """Serve tasks until the parent closes the pipe."""
    # Ctrl-C and a cluster's SIGTERM are for the parent; it ends this process by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.disable()  # math-verify reports each unparsable answer
    tasks, replies = _take_pipes()
    _limit_memory()
    try:
        check_math_verify()
    except Exception as error:
        send(replies, pack({"failed": str(error)}))
        return
    send(replies, pack({"ready": True}))
    while True:
        try:
            task = receive(tasks)
        except EOFError:
            return
        _arm_alarm(task["limit"] + ORPHAN_GRACE_S)
        reply = _grade(task)
        _arm_alarm(0)
        send(replies, pack(reply))


def _grade(task: dict[str, Any]) -> dict[str, Any]:
    try:
        return asdict(IN_WORKER[task["grader"]](task["gold"], task["response"], **task["options"]))
    except Exception as error:
        return {"error": [type(error).__name__, str(error)]}


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    # Private copies; then stdin becomes empty and stdout becomes stderr, so that what a library prints is not a reply.
    tasks, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return tasks, replies


def _limit_memory() -> None:
    if sys.platform == "linux":  # elsewhere the limit is absent or not enforced
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _arm_alarm(seconds: float) -> None:
    # The default action of SIGALRM ends the process even inside one endless big-integer product.
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    main()
