"""Progress of the long parts inside a step, shown only when they really are long."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

PATIENCE_S = 5.0
"""A bar appears once a part has run this long; short parts leave the screen alone."""


def progress_bar(total: int | None, description: str, unit: str = "row") -> tqdm:
    """A bar to be moved by hand with ``update``; closes without a trace."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        delay=PATIENCE_S,
        leave=False,
        dynamic_ncols=True,
        disable=None if sys.stderr.isatty() else True,
    )


def follow(shown: tqdm) -> Callable[[int, int], None]:
    """An ``on_progress(done, total)`` that moves a bar."""

    def move(done: int, _total: int) -> None:
        shown.update(done - shown.n)

    return move


def track(items: Iterable[T], description: str, unit: str = "row") -> Iterator[T]:
    """Iterate with a bar."""
    with progress_bar(len(items) if isinstance(items, Sized) else None, description, unit) as shown:
        for item in items:
            yield item
            shown.update()
