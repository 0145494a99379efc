"""Progress bars of the long phases inside a step, shown only when they really are long."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

PATIENCE_S = 5.0
"""A bar appears once a phase has run this long."""


def progress_bar(total: int | None, description: str, unit: str = "row") -> tqdm:
    """A bar to move with ``update``; it leaves nothing on the screen."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        delay=PATIENCE_S,
        leave=False,
        dynamic_ncols=True,
        disable=None if sys.stderr.isatty() else True,
    )


def follow(bar: tqdm) -> Callable[[int, int], None]:
    """An ``on_progress(done, total)`` that moves a bar."""

    def move(done: int, _total: int) -> None:
        bar.update(done - bar.n)

    return move


def track(items: Iterable[T], description: str, unit: str = "row") -> Iterator[T]:
    """Iterate with a bar."""
    with progress_bar(len(items) if isinstance(items, Sized) else None, description, unit) as bar:
        for item in items:
            yield item
            bar.update()
