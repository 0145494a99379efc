"""A system call filter: only what a program that computes needs, on this process alone; all else is refused.

Refused are other processes, the network, signals to others, System V and POSIX shared memory, semaphores and queues,
truncation, locks and every change of a file's attributes, and what a later kernel adds. Refused calls answer EPERM, so
that programs see an `OSError` and not a crash; those that are newer than glibc's fallbacks answer ENOSYS, on which it
falls back. Threads stay possible. The numbers are those of the kernel's ``unistd.h`` for x86-64 and arm64 (both
little-endian).

Does not protect from: opening files, since a filter cannot read the path behind a pointer (Landlock guards those), and
for the same reason from finding out by stat which files exist; reads and writes on descriptors that are open already;
kernel bugs behind the calls that it allows, and behind uretprobe and uprobe of x86-64, which the kernel exempts.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

ALLOWED: dict[str, tuple[int, int | None]] = {
    # reading, writing, waiting
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286), "pwritev2": (328, 287),
    "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "sendfile": (40, 71), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "fsync": (74, 82), "fdatasync": (75, 83), "fadvise64": (221, 223),
    "pipe": (22, None), "pipe2": (293, 59), "poll": (7, None), "ppoll": (271, 73), "select": (23, None),
    "pselect6": (270, 72), "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441), "eventfd": (284, None),
    "eventfd2": (290, 19), "signalfd": (282, None), "signalfd4": (289, 74), "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87), "recvfrom": (45, 207), "recvmsg": (47, 212),
    "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205), "getsockopt": (55, 209),
    # looking files up
    "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "getdents64": (217, 61),
    "getcwd": (79, 17), "chdir": (80, 49),
    # memory
    "brk": (12, 214), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "msync": (26, 227), "membarrier": (324, 283), "mbind": (237, 235), "get_mempolicy": (239, 236),
    # threads
    "futex": (202, 98), "futex_waitv": (449, 449), "set_robust_list": (273, 99), "set_tid_address": (218, 96),
    "gettid": (186, 178), "rseq": (334, 293), "getcpu": (309, 168), "arch_prctl": (158, None),
    "sched_yield": (24, 124), "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    # this process
    "getpid": (39, 172), "getppid": (110, 173), "getpgrp": (111, None), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158), "getresuid": (118, 148),
    "getresgid": (120, 150), "getrlimit": (97, 163), "setrlimit": (160, 164), "getrusage": (98, 165),
    "times": (100, 153), "umask": (95, 166), "uname": (63, 160), "sysinfo": (99, 179), "wait4": (61, 260),
    "waitid": (247, 95), "exit": (60, 93), "exit_group": (231, 94), "restart_syscall": (219, 128),
    # its signals and timers
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, None),
    "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103), "timer_create": (222, 107),
    "timer_settime": (223, 110), "timer_gettime": (224, 108), "timer_getoverrun": (225, 109),
    "timer_delete": (226, 111), "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None), "getrandom": (318, 278),
}  # fmt: skip
"""Calls that are allowed whatever the arguments: (x86-64, arm64), None where the machine lacks one."""

CONDITIONAL: dict[str, tuple[int, int | None]] = {
    "open": (2, None), "openat": (257, 56), "mmap": (9, 222), "clone": (56, 220), "kill": (62, 129),
    "tgkill": (234, 131), "prlimit64": (302, 261), "sched_getaffinity": (204, 123), "prctl": (157, 167),
    "fcntl": (72, 25), "ioctl": (16, 29), "sendto": (44, 206), "socketpair": (53, 199), "getpgid": (121, 155),
    "getsid": (124, 156), "getpriority": (140, 141),
}  # fmt: skip
"""Calls that are allowed with some arguments."""

FIRST_NEW = 424
"""From here on both machines number alike; libc knows what to do on kernels that lack these calls."""

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD, _MAP_STACK = 0x10000, 0x20000
_WRITE_ONLY, _READ_WRITE, _TRUNCATE, _PATH = 0o1, 0o2, 0o1000, 0o10000000  # flags of open, the same on both machines
_OWN_OPTIONS = [2, 3, 15, 16, 21, 23, 39, 0x53564D41]
"""prctl: PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_CAPBSET_READ,
PR_GET_NO_NEW_PRIVS and PR_SET_VMA; among the refused is PR_SET_PDEATHSIG, to outlive the parent."""
_DESCRIPTOR_COMMANDS = [0, 1, 2, 3, 4, 1030, 1032]
"""fcntl: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC and F_GETPIPE_SZ; no locks, leases or signals."""
_TERMINAL_AND_PIPE_QUESTIONS = [0x5401, 0x802C542A, 0x5413, 0x540F, 0x5421, 0x541B, 0x5450, 0x5451]
"""ioctl: TCGETS, TCGETS2, TIOCGWINSZ, TIOCGPGRP, FIONBIO, FIONREAD, FIONCLEX and FIOCLEX; no attributes of files."""
MIN_STACK_BYTES = 1 << 19
"""Smaller thread stacks are refused, so that the address space bounds the number of threads."""

Instruction = tuple[int, int, int, int]


def filter_supported() -> bool:
    """Whether the tables know this machine."""
    return sys.platform == "linux" and platform.machine() in AUDIT_ARCH and sys.byteorder == "little"


def install_filter() -> None:
    """Put this process under the filter for good; needs NO_NEW_PRIVS and a single thread.

    Raises:
        OSError: if the kernel refuses.
    """
    program = b"".join(struct.pack("<HBBI", *line) for line in filter_program(platform.machine(), os.getpid()))
    buffer = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    described = Program(len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.byref(described), 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp: {os.strerror(code)}")


def filter_program(machine: str, pid: int) -> list[Instruction]:
    """The filter as BPF instructions, for a process with this id."""
    column = list(AUDIT_ARCH).index(machine)
    eperm = _return(_ERRNO | errno.EPERM)
    program = [_load(4), (_JUMP_EQ, 1, 0, AUDIT_ARCH[machine]), _return(_KILL_PROCESS), _load(0)]
    if machine == "x86_64":  # the x32 numbers are a second door to the same calls
        program += [(_JUMP_GE, 0, 1, 0x40000000), eperm]
    for number in (n for numbers in ALLOWED.values() if (n := numbers[column]) is not None):
        program += [(_JUMP_EQ, 0, 1, number), _return(_ALLOW)]
    for name, block in _conditions(pid).items():
        if (number := CONDITIONAL[name][column]) is not None:
            program += [(_JUMP_EQ, 0, len(block), number), *block]
    return [*program, (_JUMP_GE, 0, 1, FIRST_NEW), _return(_ERRNO | errno.ENOSYS), eperm]


def _conditions(pid: int) -> dict[str, list[Instruction]]:
    # Every block ends in a return, so what it loads over the call's number does not matter.
    allow, eperm = _return(_ALLOW), _return(_ERRNO | errno.EPERM)
    return {
        "open": _forbid_odd_modes(1),
        "openat": _forbid_odd_modes(2),
        "mmap": _forbid_small_stacks(),
        "clone": [_argument(0), (_JUMP_SET, 0, 1, _CLONE_THREAD), allow, eperm],
        "kill": _allow_only(0, [pid]),
        "tgkill": _allow_only(0, [pid]),
        "prlimit64": _allow_only(0, [0, pid]),
        "sched_getaffinity": _allow_only(0, [0, pid]),
        "getpgid": _allow_only(0, [0, pid]),
        "getsid": _allow_only(0, [0, pid]),
        "getpriority": _allow_only(1, [0, pid]),
        "prctl": _allow_only(0, _OWN_OPTIONS),
        "fcntl": _allow_only(1, _DESCRIPTOR_COMMANDS),
        "ioctl": _allow_only(1, _TERMINAL_AND_PIPE_QUESTIONS),
        # without an address it serves socket pairs (asyncio); with one it reaches sockets of others
        "sendto": [_argument(4), (_JUMP_EQ, 0, 2, 0), _argument(4, high=True), (_JUMP_EQ, 1, 0, 0), eperm, allow],
        "socketpair": _allow_only(0, [1]),  # AF_UNIX
    }


def _allow_only(argument: int, values: list[int]) -> list[Instruction]:
    tests: list[Instruction] = [(_JUMP_EQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_argument(argument), *tests, _return(_ERRNO | errno.EPERM), _return(_ALLOW)]


def _forbid_odd_modes(argument: int) -> list[Instruction]:
    # Landlock asks nothing of a file that is opened with O_PATH or for neither reading nor writing (mode 3), and before
    # Linux 6.2 nothing of one that is emptied while it is opened for reading.
    return [
        _argument(argument),
        (_JUMP_SET, 5, 0, _PATH),
        (_JUMP_SET, 0, 1, _READ_WRITE),
        (_JUMP_SET, 3, 2, _WRITE_ONLY),
        (_JUMP_SET, 1, 0, _WRITE_ONLY),
        (_JUMP_SET, 1, 0, _TRUNCATE),
        _return(_ALLOW),
        _return(_ERRNO | errno.EPERM),
    ]


def _forbid_small_stacks() -> list[Instruction]:
    return [
        _argument(3),
        (_JUMP_SET, 0, 4, _MAP_STACK),
        _argument(1, high=True),
        (_JUMP_EQ, 0, 2, 0),
        _argument(1),
        (_JUMP_GE, 0, 1, MIN_STACK_BYTES),
        _return(_ALLOW),
        _return(_ERRNO | errno.ENOMEM),
    ]


def _argument(index: int, high: bool = False) -> Instruction:
    return _load(16 + 8 * index + (4 if high else 0))


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _return(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)
