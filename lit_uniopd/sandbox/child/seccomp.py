"""A system call filter: no new processes, no network, no signals to others, no changes to files' attributes.

Denied calls answer EPERM, so that programs see an `OSError` and not a crash. Threads stay possible. The numbers are
those of the kernel's ``unistd.h`` for x86-64 and arm64 (both little-endian).

Does not protect from: opening files, since a filter cannot read the path behind a pointer (Landlock guards those);
reads and writes on descriptors that are open already; system calls newer than this list, and kernel bugs behind those
that it allows.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

DENIED: dict[str, tuple[int | None, int | None]] = {
    # processes
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "setsid": (112, 157), "setpgid": (109, 154), "ptrace": (101, 117), "kcmp": (312, 272),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "setpriority": (141, 140), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "sched_setaffinity": (203, 122), "ioprio_set": (251, 30),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
    # signals
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    # network and other ways to talk; io_uring would do all of this past the filter
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "sendmsg": (46, 211), "sendmmsg": (307, 269), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # memory and objects that this process's limits do not count, or that outlive it
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
    # attributes of files, which Landlock does not guard
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "fchownat": (260, 54), "lchown": (94, None), "utime": (132, None), "utimes": (235, None),
    "utimensat": (280, 88), "futimesat": (261, None), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
    # namespaces, mounts and the rest of the machine
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "mount_setattr": (442, 442), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "move_mount": (429, 429), "open_tree": (428, 428),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "acct": (163, 89), "iopl": (172, None), "ioperm": (173, None), "personality": (135, 92),
    "sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116), "vhangup": (153, 58),
}  # fmt: skip
"""Calls that are always refused: (x86-64, arm64)."""

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD, _MAP_STACK = 0x10000, 0x20000
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
    for numbers in DENIED.values():
        if (number := numbers[column]) is not None:
            program += [(_JUMP_EQ, 0, 1, number), eperm]
    for numbers, block in _conditions(pid):
        program += [(_JUMP_EQ, 0, len(block), numbers[column]), *block]
    return [*program, _return(_ALLOW)]


def _conditions(pid: int) -> list[tuple[tuple[int, int], list[Instruction]]]:
    # Every block ends in a return, so what it loads over the call's number does not matter.
    allow, eperm = _return(_ALLOW), _return(_ERRNO | errno.EPERM)
    own_process: list[Instruction] = [_argument(0), (_JUMP_EQ, 0, 1, pid), allow, eperm]
    return [
        ((435, 435), [_return(_ERRNO | errno.ENOSYS)]),  # clone3 hides its flags; libc falls back to clone
        ((56, 220), [_argument(0), (_JUMP_SET, 0, 1, _CLONE_THREAD), allow, eperm]),  # clone
        ((62, 129), own_process),  # kill
        ((234, 131), own_process),  # tgkill
        ((302, 261), [_argument(0), (_JUMP_EQ, 1, 0, 0), (_JUMP_EQ, 0, 1, pid), allow, eperm]),  # prlimit64
        ((157, 167), _forbid(0, [1])),  # prctl(PR_SET_PDEATHSIG): outlive the parent
        ((72, 25), _forbid(1, [8, 10, 15])),  # fcntl(F_SETOWN, F_SETSIG, F_SETOWN_EX): SIGIO to others
        ((16, 29), _forbid(1, [0x8901, 0x8902, 0x5452, 0x5412])),  # ioctl: the same, and typing into a terminal
        # sendto without an address serves socket pairs (asyncio); with one it reaches sockets of others
        ((44, 206), [_argument(4), (_JUMP_EQ, 0, 2, 0), _argument(4, high=True), (_JUMP_EQ, 1, 0, 0), eperm, allow]),
        ((9, 222), _forbid_small_stacks()),  # mmap
    ]  # fmt: skip


def _forbid(argument: int, values: list[int]) -> list[Instruction]:
    tests: list[Instruction] = [(_JUMP_EQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_argument(argument), *tests, _return(_ALLOW), _return(_ERRNO | errno.EPERM)]


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
