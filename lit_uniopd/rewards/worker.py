"""Grading processes: ``python -m lit_uniopd.rewards.worker``, started by `lit_uniopd.rewards.fork_server`.

The process itself forks on request over the socket that is its stdin; what it forks answers tasks from one pipe on
another until the first ends. It is a fresh interpreter rather than a ``multiprocessing`` child: it inherits nothing (no
CUDA context, no locks), works from notebooks and from scripts without a main guard, and never imports torch.
"""

import logging
import os
import signal
import socket
import sys
from dataclasses import asdict
from typing import Any, NoReturn

from lit_uniopd.rewards.fork_server import NUMBER, RUNNING
from lit_uniopd.rewards.mathematics import check_math_verify, warm_up
from lit_uniopd.rewards.pipe import pack, receive, send
from lit_uniopd.rewards.registry import IN_WORKER

MEMORY_LIMIT = 4 << 30
"""Address space in bytes: an answer like 9^9^9^9 must not take the training process's memory with it."""
ORPHAN_GRACE_S = 1.0
"""Past the time limit by this much, the parent that should have killed this process must be dead."""


def main() -> None:
    """Fork grading processes until the parent closes the socket."""
    # Ctrl-C and a cluster's SIGTERM are for the parent; it ends this process by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.disable()  # math-verify reports each unparsable answer
    parent = _take_socket()
    _limit_memory()
    try:
        check_math_verify()
        warm_up()
    except Exception as error:
        parent.sendall(pack({"failed": str(error)}))
        return
    parent.sendall(pack({"ready": True}))
    children: set[int] = set()
    try:
        while _obey(parent, children):
            pass
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


def _obey(parent: socket.socket, children: set[int]) -> bool:
    """Do one thing that the parent asks for; False when it is gone."""
    command, fds, _, _ = socket.recv_fds(parent, 1, 2)
    if command == b"f":
        pid = os.fork()
        if pid == 0:
            parent.close()
            _serve(*fds)
        for fd in fds:
            os.close(fd)
        children.add(pid)
        parent.sendall(NUMBER.pack(pid))
    elif command:
        pid = NUMBER.unpack(parent.recv(NUMBER.size, socket.MSG_WAITALL))[0]
        ended, status = os.waitpid(pid, 0 if command == b"w" else os.WNOHANG)
        children -= {ended}
        parent.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status) if ended else RUNNING))
    return bool(command)


def _serve(task_fd: int, reply_fd: int) -> NoReturn:
    try:
        with os.fdopen(task_fd, "rb") as tasks, os.fdopen(reply_fd, "wb") as replies:
            while True:
                task = receive(tasks)
                _arm_alarm(task["limit"] + ORPHAN_GRACE_S)
                reply = _grade(task)
                _arm_alarm(0)
                send(replies, pack(reply))
    except (EOFError, OSError):
        os._exit(0)
    except BaseException:
        os._exit(1)


def _grade(task: dict[str, Any]) -> dict[str, Any]:
    try:
        return asdict(IN_WORKER[task["grader"]](task["gold"], task["response"], **task["options"]))
    except (MemoryError, RecursionError):
        return {"killed": "memory"}
    except Exception as error:
        return {"error": [type(error).__name__, str(error)]}


def _take_socket() -> socket.socket:
    # A private copy; then stdin becomes empty and stdout becomes stderr.
    parent = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return parent


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
