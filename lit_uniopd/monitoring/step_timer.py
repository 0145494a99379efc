"""Where the wall time of a step goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OVERHEAD = "overhead"


class StepTimer:
    """Attributes every moment from one lap to the next to exactly one phase, so that the phases add up to the step.

    A phase inside another is subtracted from it. Time in no phase is ``overhead``; while the timer is paused, nothing
    counts.

    Args:
        now: the time in seconds. On an accelerator it must first wait for the work that was started.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.restart()

    def restart(self) -> None:
        """Set all phases to 0, and count ``overhead`` from here."""
        self.seconds: dict[str, float] = {}
        self._open: list[str | None] = [OVERHEAD]
        self._since = self.now()

    @property
    def phase(self) -> str | None:
        """The phase that counts now."""
        return self._open[-1]

    def _change(self) -> None:
        now, phase = self.now(), self._open[-1]
        if phase is not None:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now

    def between(self, phase: str | None) -> None:
        """Count the time outside all phases as ``phase`` from here; None: do not count it."""
        self._change()
        self._open = [phase]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside as phase ``name``."""
        self._change()
        self._open.append(name)
        try:
            yield
        finally:
            self._change()
            self._open.pop()

    def lap(self) -> dict[str, float]:
        """Seconds by phase since the last lap, and ``step``, their sum."""
        self._change()
        seconds, self.seconds = self.seconds, {}
        return {**seconds, "step": sum(seconds.values())}
