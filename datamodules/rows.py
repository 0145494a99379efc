"""Rows that stay in their files, and what is made of them when it is asked for: millions of rows need no memory."""

import json
import os
import weakref
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, overload

from lit_uniopd.errors import UserError

Item = TypeVar("Item", covariant=True)
Made = TypeVar("Made")
ARROW_ROWS = 64
"""Rows that are made into Python objects at once; they may hold pictures."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row and its place."""

    where: str
    """For messages: file and line, or data set and number."""
    name: str
    """Unique in its table, and the same wherever the file is."""
    values: dict[str, Any]
    folder: Path | None = None
    """Where relative paths in the row start."""


class View(Sequence[Item], Generic[Item]):
    """A sequence whose items are made when they are asked for. It equals any sequence of equal items."""

    __hash__ = None  # type: ignore[assignment]

    @abstractmethod
    def item(self, index: int) -> Item:
        """The item at a place that exists."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self.item(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.item(index % len(self))

    def __iter__(self) -> Iterator[Item]:
        return map(self.item, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __add__(self, other: Sequence[Any]) -> "Chained[Any]":
        return Chained([self, other])

    def __radd__(self, other: Sequence[Any]) -> "Chained[Any]":
        return Chained([other, self])


class Chained(View[Item]):
    """Several sequences as one.

    Args:
        sequences: one after the other.
    """

    def __init__(self, sequences: Sequence[Sequence[Item]]) -> None:
        self.sequences = list(sequences)
        self._ends = list(accumulate(len(sequence) for sequence in self.sequences))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Item]:
        for sequence in self.sequences:
            yield from sequence

    def item(self, index: int) -> Item:
        number = bisect_right(self._ends, index)
        sequence = self.sequences[number]
        return sequence[index - self._ends[number] + len(sequence)]


class MadeOf(View[Made]):
    """What is made of chosen items of a sequence.

    Args:
        items: of which something is made.
        make: from an item to what it becomes.
        chosen: numbers of the items; None: all.
    """

    def __init__(self, items: Sequence[Any], make: Callable[[Any], Made], chosen: Sequence[int] | None = None) -> None:
        self.items, self.make, self.chosen = items, make, chosen

    def __len__(self) -> int:
        return len(self.items if self.chosen is None else self.chosen)

    def __iter__(self) -> Iterator[Made]:
        if self.chosen is None:
            return map(self.make, self.items)
        return super().__iter__()

    def item(self, index: int) -> Made:
        return self.make(self.items[index if self.chosen is None else self.chosen[index]])


class JsonValues(View[dict[str, Any]]):
    """The objects of a JSON or JSONL file, read where they stand.

    Args:
        file: open for reading bytes; closed with this object. It must stay as it is.
        label: its name, for messages.
        starts: offset of each object.
        end: offset behind the last one.
    """

    def __init__(self, file: IO[bytes], label: str, starts: "array[int]", end: int) -> None:
        self._file, self._label, self._starts, self._end = file, label, starts, end
        self._written = os.fstat(file.fileno()).st_mtime_ns
        weakref.finalize(self, file.close)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def nbytes(self) -> int:
        return self._end

    def item(self, index: int) -> dict[str, Any]:
        start = self._starts[index]
        end = self._starts[index + 1] if index + 1 < len(self._starts) else self._end
        text = os.pread(self._file.fileno(), end - start, start)
        if os.fstat(self._file.fileno()).st_mtime_ns != self._written:
            raise UserError(
                f"{self._label} was changed while it was read; start again, and write new data into a new file."
            )
        return json.loads(text.rstrip().removesuffix(b","))


class ArrowValues(View[dict[str, Any]]):
    """The rows of a `datasets.Dataset`, memory-mapped; pictures stay compressed.

    Args:
        dataset: any.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def nbytes(self) -> int:
        return self._dataset.data.nbytes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for table in self._dataset.iter(ARROW_ROWS):
            yield from table.to_pylist()

    def item(self, index: int) -> dict[str, Any]:
        return self._dataset[index].to_pylist()[0]


class ListedValues(list[dict[str, Any]]):
    """Rows that are held in memory."""

    nbytes = 0


Values = JsonValues | ArrowValues | ListedValues


class TableRows(View[Row]):
    """The rows of one file or data set, each with its place.

    Args:
        values: of the rows.
        columns: their names.
        where: of the table, for messages.
        name: unique among tables.
        numbers: of the rows, from 1; None: they follow each other.
        folder: where relative paths start.
    """

    def __init__(
        self,
        values: Values,
        columns: Sequence[str],
        where: str,
        name: str,
        numbers: "array[int] | None" = None,
        folder: Path | None = None,
    ) -> None:
        self.values, self.columns, self.where, self.name = values, list(columns), where, name
        self.numbers, self.folder = numbers, folder

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Row]:
        for index, values in enumerate(self.values):
            yield self._row(index, values)

    def item(self, index: int) -> Row:
        return self._row(index, self.values[index])

    def _row(self, index: int, values: dict[str, Any]) -> Row:
        number = index + 1 if self.numbers is None else self.numbers[index]
        return Row(f"{self.where}:{number}", f"{self.name}:{number}", values, self.folder)


class Rows(Chained[Row]):
    """The rows of all tables of a source.

    Args:
        tables: in order.

    Attributes:
        columns: names of the columns of any table.
        nbytes: of what is read, about.
    """

    def __init__(self, tables: Sequence[TableRows]) -> None:
        super().__init__(tables)
        self.columns = list(dict.fromkeys(name for table in tables for name in table.columns))
        self.nbytes = sum(table.values.nbytes for table in tables)
