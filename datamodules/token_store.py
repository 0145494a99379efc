"""Tokens that wait on disk until they are trained on."""

import os
import tempfile
import weakref
from array import array
from collections.abc import Sequence
from itertools import pairwise

Tokens = tuple[tuple[int, ...], ...]


class TokenStore:
    """Tokens of rows in a temporary file, which goes with this process: 4 bytes a token there, some 32 a row here.

    Args:
        columns: sequences of tokens in a row.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with this object
        self._ends = array("q", [0])
        self._written = 0
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return (len(self._ends) - 1) // self.columns

    def append(self, *row: Sequence[int]) -> None:
        """Add the sequences of a row."""
        for tokens in row:
            self._written += self._file.write(array("i", tokens).tobytes())
            self._ends.append(self._written)

    def __getitem__(self, index: int) -> Tokens:
        if self._written:
            self._file.flush()
        ends = self._ends[index * self.columns : (index + 1) * self.columns + 1]
        data = array("i", os.pread(self._file.fileno(), ends[-1] - ends[0], ends[0]))
        places = [(end - ends[0]) // data.itemsize for end in ends]
        return tuple(tuple(data[start:end]) for start, end in pairwise(places))
