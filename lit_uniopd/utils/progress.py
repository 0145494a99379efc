"""Signs of life of long work: a bar on a terminal, a line a minute where there is none."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from lit_uniopd.utils.progress_text import joined, phase_text, share

T = TypeVar("T")

PATIENCE_S = 5.0
"""A bar appears once a phase has run this long."""
SILENCE_S = 60.0
"""Without a terminal a line is written once nothing was said for this long."""


def bars_are_readable() -> bool:
    """Whether a bar on the error stream redraws itself; in a file each redrawing is another line."""
    return sys.stderr.isatty()


def in_notebook() -> bool:
    """Whether this process is a notebook's, where bars are drawn without a terminal."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def silence_other_bars() -> None:
    """Switch off the bars of transformers, the hub and datasets where they would fill a log.

    Who sets ``HF_HUB_DISABLE_PROGRESS_BARS`` or ``HF_DATASETS_DISABLE_PROGRESS_BARS`` to 0 wants them.
    """
    if bars_are_readable() or in_notebook():
        return
    if "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        if (transformers := sys.modules.get("transformers")) is None:
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when they are imported
        else:
            transformers.utils.logging.disable_progress_bar()
    if "HF_DATASETS_DISABLE_PROGRESS_BARS" not in os.environ:
        if (datasets := sys.modules.get("datasets")) is None:
            os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
        else:
            datasets.disable_progress_bars()


class Speaker(Protocol):
    """Work that is under way."""

    def context(self) -> str:
        """What it is, in front of a line about a phase inside it."""
        ...

    def line(self) -> str:
        """What it is and how far."""
        ...


def write_line(text: str) -> None:
    """Write to Lightning's log, which is shown without any setting up; rank 0 alone does."""
    from lightning.pytorch.utilities import rank_zero_info  # heavy, and commands that are done at once do without

    rank_zero_info(text)


class Heartbeat:
    """Writes a line about the work under way whenever nothing was said for a while, by a thread of its own.

    Only so is there a line while one call blocks for long: a teacher's server, the download of a model.

    Args:
        silence_s: seconds after the last line.
        write: takes a line; called from the thread too.
    """

    def __init__(self, silence_s: float = SILENCE_S, write: Callable[[str], Any] = write_line) -> None:
        self.silence_s, self.write = silence_s, write
        self._open: list[Speaker] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last_line = time.monotonic()

    def say(self, text: str) -> None:
        """Write a line now, with the time in front."""
        with self._lock:
            self._last_line = time.monotonic()
        self.write(f"{time.strftime('%H:%M:%S')} {text}")

    def begin(self, speaker: Speaker) -> None:
        """This work is under way from now on, inside of what already is."""
        with self._lock:
            if not self._open:
                self._last_line = time.monotonic()
            self._open.append(speaker)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="signs of life", daemon=True)
                self._thread.start()

    def end(self, speaker: Speaker) -> None:
        """It is done, or has failed."""
        with self._lock:
            self._open = [other for other in self._open if other is not speaker]

    def text(self) -> str:
        """The work under way, from the outermost to the innermost; empty: there is none."""
        speakers = list(self._open)
        return joined(*(speaker.context() for speaker in speakers[:-1]), *(s.line() for s in speakers[-1:]))

    def _watch(self) -> None:
        """Wait and speak; ends when no work is left."""
        idle = threading.Event()  # never set
        while True:
            with self._lock:
                remaining_s = self._last_line + self.silence_s - time.monotonic()
                if remaining_s <= 0 and not self._open:
                    self._thread = None
                    return
            if remaining_s > 0:
                idle.wait(remaining_s)
            elif text := self.text():
                self.say(text)


heartbeat = Heartbeat()
"""The only instance: the console belongs to a process."""


def say(text: str) -> None:
    """A line where no bar is drawn."""
    if not bars_are_readable():
        heartbeat.say(text)


class PhaseLines:
    """A phase of the work where there is no terminal; has what the project uses of a bar.

    Args:
        total: how much there is; None: unknown.
        description: of the phase.
        unit: of ``total``, in the singular.
        now: the time in seconds.
    """

    def __init__(
        self, total: int | None, description: str, unit: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.description, self.unit, self.now = total, description, unit, now
        self.n, self.tokens, self.note = 0, 0, ""
        self.began = now()

    def update(self, count: int = 1) -> None:
        """So much more is done."""
        self.n += count

    def add_tokens(self, count: int) -> None:
        """So many more tokens are written."""
        self.tokens += count

    def set_postfix_str(self, text: str) -> None:
        """What else to say."""
        self.note = text

    def context(self) -> str:
        return f"{self.description} {share(self.n, self.total, self.unit)}"

    def line(self) -> str:
        return phase_text(
            self.description,
            self.n,
            self.total,
            self.unit,
            seconds=self.now() - self.began,
            tokens=self.tokens,
            note=self.note,
        )

    def __enter__(self) -> "PhaseLines":
        heartbeat.begin(self)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        heartbeat.end(self)


class TerminalBar(tqdm):
    """A bar that also counts tokens."""

    tokens = 0

    def add_tokens(self, count: int) -> None:
        """So many more tokens are written."""
        self.tokens += count
        self.set_postfix_str(f"{self.tokens} tokens", refresh=False)


def progress_bar(total: int | None, description: str, unit: str = "row", *, announce: bool = False) -> Any:
    """A bar to move with ``update``, which leaves nothing on the screen; without a terminal a line a minute.

    Args:
        total: how much there is; None: unknown.
        description: of the phase.
        unit: of ``total``, in the singular.
        announce: without a terminal, also a line at once.
    """
    if announce:
        say(joined(description, "" if total is None else share(None, total, unit)))
    if not bars_are_readable():
        return PhaseLines(total, description, unit)
    return TerminalBar(
        total=total, desc=description, unit=unit, delay=PATIENCE_S, leave=False, dynamic_ncols=True, disable=None
    )


def follow(bar: Any) -> Callable[[int, int], None]:
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
