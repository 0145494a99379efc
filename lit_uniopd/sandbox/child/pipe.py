"""Messages between the sandbox's parent and its child.

To the child: a length and a body that begins with a nonce. From the child: this nonce, the kind of the answer, a length
and a body. The child learns a nonce only together with its request, so it cannot answer ahead. The nonce does not tell
the harness from the program: both share one process.
"""

import os
import struct
from typing import Literal

NONCE_BYTES = 16
HEADER = struct.Struct(f"<{NONCE_BYTES}sBI")
LENGTH = struct.Struct("<I")
Kind = Literal["ready", "ok", "exception", "exit", "memory", "not_plain", "output"]
KINDS: tuple[Kind, ...] = ("ready", "ok", "exception", "exit", "memory", "not_plain", "output")
"""Kinds of answers; all but the first two are also statuses of `lit_uniopd.sandbox.CallResult`."""


def receive(fd: int) -> bytes | None:
    """Read one request; None when the parent has closed the pipe."""
    length = _exactly(fd, LENGTH.size)
    return None if length is None else _exactly(fd, LENGTH.unpack(length)[0])


def answer(fd: int, nonce: bytes, kind: Kind, body: bytes) -> None:
    """Write one answer."""
    data = memoryview(HEADER.pack(nonce, KINDS.index(kind), len(body)) + body)
    while data:
        data = data[os.write(fd, data) :]


def _exactly(fd: int, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = os.read(fd, min(size - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return bytes(data)
