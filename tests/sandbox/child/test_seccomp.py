"""The filter's decisions, by an interpreter of its instructions, for both machines."""

import re
from pathlib import Path

import pytest

from lit_uniopd.sandbox.child.seccomp import AUDIT_ARCH, DENIED, filter_program

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


CALLS = {  # from the kernel's tables: read, mmap, ioctl, fcntl, clone, clone3, kill, tgkill, sendto, prctl, prlimit64, socket
    "x86_64": {"read": 0, "mmap": 9, "ioctl": 16, "fcntl": 72, "clone": 56, "clone3": 435, "kill": 62, "tgkill": 234, "sendto": 44, "prctl": 157, "prlimit": 302, "socket": 41},
    "aarch64": {"read": 63, "mmap": 222, "ioctl": 29, "fcntl": 25, "clone": 220, "clone3": 435, "kill": 129, "tgkill": 131, "sendto": 206, "prctl": 167, "prlimit": 261, "socket": 198},
}  # fmt: skip
DECISIONS = [
    ("read", (3, 1 << 40, 100), ALLOW),
    ("socket", (2, 1, 0), EPERM),
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
    ("ioctl", (0, 0x5412, 1 << 40), EPERM),
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


@pytest.mark.parametrize(
    ("column", "header"),
    [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")],
    ids=["x86_64", "arm64"],
)
def test_the_numbers_are_the_kernels(column, header):
    if not Path(header).exists():
        pytest.skip("the kernel's headers are not installed")
    numbers = {name: int(number) for name, number in re.findall(r"define __NR_(\w+)\s+(\d+)", Path(header).read_text())}
    table = {name: pair[column] for name, pair in DENIED.items() if name in numbers}
    assert len(table) > 75
    assert table == {name: numbers[name] for name in table}
    # What a machine lacks is missing in its header too.
    assert not [name for name, pair in DENIED.items() if pair[column] is None and name in numbers]
