"""Landlock: from here on, this process can open the given paths and nothing else (Linux 5.13 and later).

Does not protect from: descriptors that are open already; finding out by stat which paths exist; changes to a file's
mode, owner, times and attributes; UDP and sockets with a path in the file system; on kernels before 6.7, TCP. The
filter of `seccomp` refuses the last three.
"""

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on x86-64 and arm64
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_FILE_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights (the lowest bits) a version of the interface knows."""


def landlock_version() -> int:
    """The kernel's version of the interface; 0 without Landlock."""
    return max(0, _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1))


def restrict_files(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Allow reading beneath ``readable`` and writing to the files ``writable``; nothing else, for good.

    Paths that do not exist are skipped. Where the kernel can, TCP, abstract sockets and signals to outside are closed
    as well. Needs NO_NEW_PRIVS.

    Raises:
        OSError: if the kernel refuses.
    """
    version = landlock_version()
    handled = (1 << _FILE_RIGHTS_BY_VERSION[min(version, 5)]) - 1
    network = 0b11 if version >= 4 else 0
    scoped = 0b11 if version >= 6 else 0
    attributes = struct.pack("<QQQ", handled, network, scoped)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _check(_libc().syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in writable:
            _allow(ruleset, path, handled & (_READ_FILE | _WRITE_FILE | _TRUNCATE))
        _check(_libc().syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= ~_READ_DIR
            _check(_libc().syscall(_ADD_RULE, ruleset, 1, struct.pack("<Qi", rights, fd), 0))
        finally:
            os.close(fd)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result
