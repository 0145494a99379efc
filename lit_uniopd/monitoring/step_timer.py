"""Where the wall time of a step goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REST = "overhead"


class StepTimer:
    """Attributes every moment from one lap to the next to exactly one part, so that the parts add up to the step.

    A part inside another is taken out of it. What is in no part is ``overhead``; while the clock is paused, nothing
    counts.

    Args:
        now: seconds since some moment. On an accelerator it must wait for what was started.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.restart()

    def restart(self) -> None:
        """Forget what was counted, and count ``overhead`` from here."""
        self.seconds: dict[str, float] = {}
        self._open: list[str | None] = [REST]
        self._since = self.now()

    def _change(self) -> None:
        now, part = self.now(), self._open[-1]
        if part is not None:
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    def between(self, part: str | None) -> None:
        """Count what follows, outside of all parts, as ``part``; None: do not count it."""
        self._change()
        self._open = [part]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as ``name``."""
        self._change()
        self._open.append(name)
        try:
            yield
        finally:
            self._change()
            self._open.pop()

    def lap(self) -> dict[str, float]:
        """Seconds by part since the last lap, and ``step``, their sum."""
        self._change()
        seconds, self.seconds = self.seconds, {}
        return {**seconds, "step": sum(seconds.values())}
