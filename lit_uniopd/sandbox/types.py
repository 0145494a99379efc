"""What goes into the sandbox and what comes out."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from lit_uniopd.errors import UserError

BackendName = Literal["auto", "bubblewrap", "unshare", "seccomp", "plain"]
Status = Literal["ok", "exception", "timeout", "exit", "memory", "not_plain", "output", "error"]
"""How a run ended.

ok, exception, timeout, memory: as they say; exit: the process ended, or called exit, before it answered (calls), or
ended with a code other than 0 (stdio); not_plain: the result is not plain data, or is not the answer to the call;
output: more output than the limit; error: the sandbox itself failed before the program was loaded. Only the last says
nothing about the program.
"""


class ExportError(Exception):
    """Names of a program could not be brought back; the message says why."""


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    memory_bytes: int = 4 << 30
    """Address space of its one process; the plain backend lets a program start more, each with a limit of its own."""
    output_bytes: int = 32 << 20
    """Standard output of a run, or one encoded result."""
    file_bytes: int = 16 << 20
    """Size of each file it writes; only the plain backend lets it write files."""
    open_files: int = 64
    """File descriptors."""
    cpu_seconds: int = 3600
    """Total CPU time. The parent enforces the deadlines; this ends a program whose parent has vanished."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass
class SandboxArgs:
    """How untrusted programs are isolated from this machine."""

    backend: BackendName = "auto"
    """auto: the first of bubblewrap, unshare and seccomp that proves itself here. plain limits time and memory only."""
    allow_unsafe: bool = False
    """Accept the plain backend: model-written programs can then read and delete your files and use the network."""

    def __post_init__(self) -> None:
        if self.backend not in get_args(BackendName):
            names = ", ".join(get_args(BackendName))
            raise UserError(f"sandbox.backend must be one of {names}, got {self.backend!r}.")
        if self.backend == "plain" and not self.allow_unsafe:
            raise UserError(
                "sandbox.backend plain does not keep programs from your files and network; "
                "choose auto, or accept the risk with sandbox.allow_unsafe: true."
            )


@dataclass(frozen=True)
class CallResult:
    """The outcome of one call of a function."""

    value: Any
    """The returned plain data, or a `Foreign` value that equals some; None unless the status is ok."""
    status: Status
    seconds: float
    """Wall time from sending the arguments to having the result."""
    message: str = ""
    """Type and text of the exception, or what else went wrong."""


@dataclass(frozen=True)
class StdioResult:
    """The outcome of one run of a program."""

    stdout: str
    """Invalid UTF-8 is replaced; cut at the limit."""
    status: Status
    returncode: int | None
    """Exit code, negative for a signal; None if the program was killed by us."""
    seconds: float
    """Wall time from the start of the program to its end."""
    message: str = ""
    """The end of standard error."""
