"""A read-only file system of its own, with the given paths and nothing else, for a process in its own mount namespace.

`landlock` keeps a program from opening other files, but not from asking whether they exist, how large they are and when
they changed; here they do not exist. Where the kernel refuses a fresh ``/proc`` (in a container that masks its own),
the ids of the machine's processes can still be seen.
"""

import ctypes
import os
import struct
from collections.abc import Iterable

_NEW_ROOT = "/sys"
"""A directory that exists everywhere and that no program needs; the new file system is built over it."""
_NO_SET_USER_ID, _NO_DEVICES, _NO_PROGRAMS, _BIND_ALL = 2, 4, 8, 4096 | 16384


def hide_all_but(paths: Iterable[str]) -> None:
    """Make all but these files and directories vanish, and the host's name; needs the root user of namespaces.

    Paths that do not exist are skipped.

    Raises:
        OSError: if the kernel refuses.
    """
    _mount("tmpfs", _NEW_ROOT, "tmpfs", _NO_SET_USER_ID | _NO_DEVICES, "mode=755,size=1m")
    for path in filter(os.path.exists, paths):
        place = _NEW_ROOT + path
        if os.path.isdir(path):
            os.makedirs(place)
        else:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
        _mount(path, place, "", _BIND_ALL)
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{fd}", f"{_NEW_ROOT}/dev/{name}")
    os.mkdir(f"{_NEW_ROOT}/proc")
    try:
        _mount("proc", f"{_NEW_ROOT}/proc", "proc", _NO_SET_USER_ID | _NO_DEVICES | _NO_PROGRAMS)
    except OSError:
        _mount("/proc", f"{_NEW_ROOT}/proc", "", _BIND_ALL)
    read_only = struct.pack("<QQQQ", 1, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    # mount_setattr(AT_FDCWD, …, AT_RECURSIVE, …): Linux 5.12; devices can be written to nevertheless.
    result = libc.syscall(442, -100, _NEW_ROOT.encode(), 0x8000, read_only, ctypes.c_size_t(len(read_only)))
    _checked(result, "mount_setattr")
    # Only capabilities, which are dropped next, and open directories, of which there are none, lead out of it again.
    os.chroot(_NEW_ROOT)
    os.chdir("/")
    _checked(libc.sethostname(b"sandbox", 7), "the host's name")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    texts = [text.encode() for text in (source, target, kind)]
    _checked(libc.mount(*texts, ctypes.c_ulong(flags), options.encode()), f"mount {source}")


def _checked(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
