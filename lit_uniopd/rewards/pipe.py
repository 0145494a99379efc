"""Messages between the training process and its grading processes: JSON behind a four-byte length.

Never pickle: a grading process digests text that a model wrote, and its parent must not execute what comes back.
"""

import json
from typing import IO, Any


def pack(message: Any) -> bytes:
    """A message as it travels.

    Raises:
        TypeError, ValueError: if it is not plain data.
    """
    data = json.dumps(message).encode()
    return len(data).to_bytes(4, "big") + data


def send(stream: IO[bytes], packed: bytes) -> None:
    """Write what `pack` made.

    Raises:
        OSError: if the other end is gone.
    """
    stream.write(packed)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message.

    Raises:
        EOFError: if the other end is gone.
    """
    size = int.from_bytes(_exactly(stream, 4), "big")
    return json.loads(_exactly(stream, size))


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.read(size - len(data))
        if not piece:
            raise EOFError("the other end of the pipe is gone")
        data += piece
    return data
