"""The child gives up its privileges before it sees the program.

What each layer does not protect from:

- resource limits hold for each process alone: they do not bound the sum over processes, nor wall time, nor I/O;
- the parent-death signal is not inherited by processes that the program forks;
- NO_NEW_PRIVS only keeps set-user-id programs from adding privileges, it takes none away;
- without capabilities the program is still this user, who may read files and signal processes: that is what Landlock,
  the filter and the wrappers' namespaces are for (see `landlock` and `seccomp` for their own gaps).
"""

import contextlib
import ctypes
import os
import signal
import struct
import sys
from typing import Any

from lit_uniopd.sandbox.child.landlock import landlock_version, restrict_files
from lit_uniopd.sandbox.child.seccomp import filter_supported, install_filter
from lit_uniopd.sandbox.child.view import hide_all_but

_STACK_BYTES = 512 << 20
"""Deep recursion through C (``functools.cache``) is legitimate, and crashes on the usual 8 MB."""


def confine(job: dict[str, Any]) -> None:
    """Set the job's limits and, if the job is ``confined``, drop every privilege that this kernel lets a process drop.

    Layers that the kernel lacks are skipped: the parent's probe tests whether the others suffice.

    Raises:
        OSError: if a layer that the kernel has cannot be applied.
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
    if job["private_view"]:
        hide_all_but([*job["readable"], *job["writable"]])
    if landlock_version():
        restrict_files(job["readable"], job["writable"])
    _drop_capabilities(libc)
    if filter_supported():
        install_filter()


def limit(limits: dict[str, int]) -> None:
    """Set resource limits, as far as the machine supports them."""
    import resource

    values = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_AS: limits["memory_bytes"],
    }
    for kind, value in values.items():
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
