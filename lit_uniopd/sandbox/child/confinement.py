"""The child gives up what it must not have, before it sees the program."""

import contextlib
import ctypes
import os
import signal
import struct
import sys
from typing import Any

from lit_uniopd.sandbox.child.landlock import landlock_version, restrict_files
from lit_uniopd.sandbox.child.seccomp import filter_supported, install_filter

_STACK_BYTES = 512 << 20
"""Deep recursion through C (``functools.cache``) is legitimate; the 8 MB that are usual end it with a crash."""


def confine(job: dict[str, Any]) -> None:
    """Set the job's limits and, if it says so, drop every privilege this kernel lets a process drop.

    Layers that the kernel lacks are skipped: whether the rest suffices is what the parent's probe finds out.

    Raises:
        OSError: if a layer that the kernel has cannot be put on.
    """
    limit(job["limits"])
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if job["parent"] and os.getppid() != job["parent"]:  # it died before the line above
        os._exit(1)
    if not job["confined"]:
        return
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "NO_NEW_PRIVS was refused")
    if landlock_version():
        restrict_files(job["readable"], job["writable"])
    _drop_capabilities(libc)
    if filter_supported():
        install_filter()


def limit(limits: dict[str, int]) -> None:
    """Set resource limits, as far as the machine lets them be set."""
    import resource

    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_AS: limits["memory_bytes"],
    }
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        _set(resource, kind, value, value)
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    _set(resource, resource.RLIMIT_STACK, _STACK_BYTES if hard < 0 else min(_STACK_BYTES, hard), hard)


def _set(resource: Any, kind: int, soft: int, hard: int) -> None:
    with contextlib.ExitStack() as stack:
        if sys.platform != "linux":  # macOS knows some of these limits by name only
            stack.enter_context(contextlib.suppress(OSError, ValueError))
        resource.setrlimit(kind, (soft, hard))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    header = struct.pack("<Ii", 0x20080522, 0)
    if libc.capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capabilities cannot be dropped")
