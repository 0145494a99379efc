"""The filter's decisions, by an interpreter of its instructions, for both machines."""

import re
from pathlib import Path

import pytest

from lit_uniopd.sandbox.child.seccomp import ALLOWED, AUDIT_ARCH, CONDITIONAL, filter_program

PID = 4321
ALLOW, KILL = "allow", "kill"
EPERM, ENOMEM, ENOSYS = 1, 12, 38


def decide(machine, number, *arguments, arch=None):
    """What the kernel would do with this call, following the manual page of seccomp and classic BPF."""
    words = {0: number, 4: AUDIT_ARCH[machine] if arch is None else arch}
    for i, argument in enumerate([*arguments, 0, 0, 0, 0, 0, 0][:6]):
        words[16 + 8 * i], words[20 + 8 * i] = argument & 0xFFFFFFFF, argument >> 32
    program, position, loaded = filter_program(machine, PID), 0, 0
    while True:
        code, if_true, if_false, value = program[position]
        position += 1
        if code == 0x20:
            loaded = words[value]
        elif code == 0x06:
            return {0x7FFF: ALLOW, 0x8000: KILL}.get(value >> 16, value & 0xFFFF)
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
            position += if_true if holds else if_false


CALLS = {  # from the kernel's tables
    "x86_64": {
        "read": 0, "mmap": 9, "ioctl": 16, "fcntl": 72, "clone": 56, "clone3": 435, "kill": 62, "tgkill": 234, "sendto": 44,
        "prctl": 157, "prlimit": 302, "socket": 41, "socketpair": 53, "openat": 257, "execve": 59, "truncate": 76,
        "ftruncate": 77, "fallocate": 285, "flock": 73, "readlinkat": 267, "getxattr": 191, "listxattr": 194, "shmat": 30,
        "shmctl": 31, "semop": 65, "semctl": 66, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241,
        "sched_getaffinity": 204, "mseal": 462, "open_tree_attr": 467,
    },
    "aarch64": {
        "read": 63, "mmap": 222, "ioctl": 29, "fcntl": 25, "clone": 220, "clone3": 435, "kill": 129, "tgkill": 131, "sendto": 206,
        "prctl": 167, "prlimit": 261, "socket": 198, "socketpair": 199, "openat": 56, "execve": 221, "truncate": 45,
        "ftruncate": 46, "fallocate": 47, "flock": 32, "readlinkat": 78, "getxattr": 8, "listxattr": 11, "shmat": 196,
        "shmctl": 195, "semop": 193, "semctl": 191, "msgsnd": 189, "msgrcv": 188, "msgctl": 187, "mq_open": 180, "mq_unlink": 181,
        "sched_getaffinity": 123, "mseal": 462, "open_tree_attr": 467,
    },
}  # fmt: skip
REFUSED = ("socket", "execve", "truncate", "ftruncate", "fallocate", "flock", "readlinkat", "getxattr", "listxattr", "shmat",
           "shmctl", "semop", "semctl", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink")  # fmt: skip
DECISIONS = [
    *((call, (0, 0, 0), EPERM) for call in REFUSED),
    ("mseal", (0, 0, 0), ENOSYS),
    ("open_tree_attr", (0, 0, 0), ENOSYS),
    ("read", (3, 1 << 40, 100), ALLOW),
    ("socketpair", (1, 1, 0), ALLOW),
    ("socketpair", (30, 1, 0), EPERM),  # TIPC
    ("openat", (-100 & 0xFFFFFFFF, 1 << 40, 0o2000000), ALLOW),  # O_RDONLY | O_CLOEXEC
    ("openat", (3, 0, 0o1001), ALLOW),  # O_WRONLY | O_TRUNC: Landlock asks for the right to write
    ("openat", (3, 0, 0o1002), ALLOW),
    ("openat", (3, 0, 0o1000), EPERM),
    ("openat", (3, 0, 0o3), EPERM),
    ("openat", (3, 0, 0o1003), EPERM),
    ("openat", (3, 0, 0o10000000), EPERM),
    ("sched_getaffinity", (0, 128), ALLOW),
    ("sched_getaffinity", (PID + 1, 128), EPERM),
    ("clone", (0x3D0F00,), ALLOW),  # pthread_create
    ("clone", (0x01200011,), EPERM),  # fork
    ("clone3", (1 << 40, 88), ENOSYS),
    ("kill", (PID, 9), ALLOW),
    ("kill", (0, 9), EPERM),
    ("kill", (0xFFFFFFFF, 9), EPERM),
    ("kill", (PID + 1, 9), EPERM),
    ("tgkill", (PID, PID + 5, 6), ALLOW),
    ("tgkill", (1, 1, 9), EPERM),
    ("prlimit", (0, 7, 0, 1 << 40), ALLOW),
    ("prlimit", (PID, 7, 0, 1 << 40), ALLOW),
    ("prlimit", (PID + 1, 7, 1 << 40, 0), EPERM),
    ("prctl", (1, 0), EPERM),
    ("prctl", (15, 1 << 40), ALLOW),
    ("fcntl", (3, 3), ALLOW),
    ("fcntl", (3, 8, 1), EPERM),
    ("fcntl", (3, 10, 9), EPERM),
    ("fcntl", (3, 15, 1 << 40), EPERM),
    ("ioctl", (0, 0x5401), ALLOW),
    ("ioctl", (0, 0x5412, 1 << 40), EPERM),  # TIOCSTI
    ("ioctl", (3, 0x40086602, 1 << 40), EPERM),  # FS_IOC_SETFLAGS
    ("fcntl", (3, 1024, 1), EPERM),  # F_SETLEASE
    ("fcntl", (3, 6, 1 << 40), EPERM),  # F_SETLK
    ("prctl", (0x59616D61, 1), EPERM),  # PR_SET_PTRACER
    ("sendto", (3, 1 << 40, 1, 0, 0, 0), ALLOW),
    ("sendto", (3, 1 << 40, 1, 0, 5, 16), EPERM),
    ("sendto", (3, 1 << 40, 1, 0, 5 << 32, 16), EPERM),
    ("mmap", (0, 4096, 3, 0x22), ALLOW),
    ("mmap", (0, 8 << 20, 0, 0x20022), ALLOW),
    ("mmap", (0, (4 << 32) + 1, 0, 0x20022), ALLOW),
    ("mmap", (0, 40960, 0, 0x20022), ENOMEM),
]


@pytest.mark.parametrize("machine", AUDIT_ARCH)
@pytest.mark.parametrize(("call", "arguments", "expected"), DECISIONS)
def test_each_call_is_decided_as_meant(machine, call, arguments, expected):
    assert decide(machine, CALLS[machine][call], *arguments) == expected


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_other_calling_conventions_are_no_way_around(machine):
    assert decide(machine, CALLS[machine]["read"], arch=0x40000003) == KILL  # 32-bit x86
    if machine == "x86_64":
        assert decide(machine, 0x40000000 + CALLS[machine]["read"]) == EPERM  # x32


@pytest.mark.parametrize("machine", AUDIT_ARCH)
def test_what_is_not_listed_is_refused(machine):
    column = list(AUDIT_ARCH).index(machine)
    listed = [pair[column] for pair in (*ALLOWED.values(), *CONDITIONAL.values()) if pair[column] is not None]
    assert len(set(listed)) == len(listed)
    for number in {*range(1000)} - {*listed}:
        assert decide(machine, number) == (EPERM if number < 424 else ENOSYS), number
    assert all(decide(machine, pair[column]) == ALLOW for pair in ALLOWED.values() if pair[column] is not None)


def test_new_calls_have_one_number_and_old_ones_of_both_machines_have_a_twin():
    """Since Linux 5.1 calls are numbered alike; the older ones without an arm64 number are those that it never had."""
    for x86_64, arm64 in (*ALLOWED.values(), *CONDITIONAL.values()):
        assert x86_64 < 335 or (x86_64 >= 424 and x86_64 == arm64)
        assert arm64 is None or arm64 < 295 or x86_64 == arm64
    lacking = {name for name, pair in (ALLOWED | CONDITIONAL).items() if pair[1] is None}
    assert lacking == {"dup2", "pipe", "poll", "select", "epoll_create", "epoll_wait", "eventfd", "signalfd", "stat", "lstat",
                       "access", "arch_prctl", "getpgrp", "pause", "alarm", "time", "open"}  # fmt: skip


@pytest.mark.parametrize(
    ("column", "header"),
    [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")],
    ids=["x86_64", "arm64"],
)
def test_the_numbers_are_the_kernels(column, header):
    if not Path(header).exists():
        pytest.skip("the kernel's headers are not installed")
    pairs = re.findall(r"define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())
    numbers = {name: int(number) for name, number in pairs}
    if column == 1:
        numbers["newfstatat"] = numbers["fstatat"]
    for name, pair in (ALLOWED | CONDITIONAL).items():
        assert pair[column] == numbers.get(name), name
