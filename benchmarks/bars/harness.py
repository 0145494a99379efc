"""How a bar is measured."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.logps import peak_kib

ROUNDS = 3
Step = Callable[[], Any]
Build = Callable[[str, bool], Step]
"""From a side's name, and whether to make it small (a warm-up), to the step that is measured."""


@dataclass(frozen=True)
class Bar:
    """One row of the table; the names of the fields are those of the records in `runs/bars/`."""

    number: str
    what: str
    measure: str
    value: float
    """Median of the rounds."""
    low: float
    high: float
    limit: float
    """The largest value that passes."""

    @property
    def passed(self) -> bool:
        return self.value <= self.limit


def cpu_seconds(steps: Mapping[str, Step], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """CPU seconds of each side in each round, the sides in turn, after one round that does not count."""
    seconds: dict[str, list[float]] = {side: [] for side in steps}
    for lap in range(rounds + 1):
        for side, step in steps.items():
            start = time.process_time()
            step()
            if lap:
                seconds[side].append(time.process_time() - start)
    return seconds


def time_bar(
    number: str, label: str, seconds: Mapping[str, list[float]], side: str, baseline: str, limit: float
) -> Bar:
    """Ratio of two sides of `cpu_seconds`."""
    ratios = [s / b for s, b in zip(seconds[side], seconds[baseline], strict=True)]
    return spread(number, label, "time", ratios, limit)


def spread(number: str, label: str, measure: str, values: list[float], limit: float) -> Bar:
    """Median and range of repeated measurements."""
    return Bar(number, label, measure, statistics.median(values), min(values), max(values), limit)


def peak_mib(build: Build, side: str) -> float:
    """MiB by which one step raises the peak resident size, in a child of its own.

    Call it before this process has held anything large: the child would use the freed memory again.
    """
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_measure_peak, args=(build, side, send))
    child.start()
    send.close()
    growth = receive.recv()
    child.join()
    return growth


def _measure_peak(build: Build, side: str, send: Any) -> None:
    build(side, True)()  # loads the kernels
    step = build(side, False)
    before = peak_kib()
    step()
    send.send((peak_kib() - before) / 1024)


def memory_bar(number: str, label: str, build: Build, side: str, baseline: str, limit: float) -> Bar:
    """Ratio of two sides' peaks."""
    value = peak_mib(build, side) / peak_mib(build, baseline)
    return Bar(number, label, "peak memory", value, value, value, limit)
