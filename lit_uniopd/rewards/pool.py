"""Grading many answers in processes that can be killed."""

import os
import queue
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from lit_uniopd.rewards.grade import Grade, failed, gold_text, unknown
from lit_uniopd.rewards.process import GraderProcess
from lit_uniopd.rewards.registry import IN_WORKER, INLINE, check_grader


@dataclass(frozen=True, slots=True)
class GradeItem:
    """One answer to be judged."""

    grader: str
    """Key of ``GRADERS``."""
    gold: Any
    response: str
    row: Mapping[str, Any] | None = None
    """The other columns of the prompt's row."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the grader; plain data."""


class GraderPool:
    """Grades answers in order, the risky graders in ``workers`` separate processes.

    The processes start when they are first needed, keep for the life of the pool and end with it or with this process.
    One that exceeds the time limit is killed, one that dies is replaced, and in both cases only its own answer suffers.
    Threads may share a pool. It is also a context manager.
    """

    def __init__(self, workers: int = 1, time_limit: float = 10.0) -> None:
        """Nothing is started yet.

        Args:
            workers: Grading processes, each of one core.
            time_limit: Wall seconds per answer, then its reason is ``timeout``. A busy machine needs more: the limit
                includes waiting for a core.

        Raises:
            ValueError: if either is not positive.
        """
        if workers < 1 or time_limit <= 0:
            raise ValueError(f"workers and time_limit must be positive, not {workers} and {time_limit}")
        self.workers = workers
        self.time_limit = time_limit
        self._open()

    def _open(self) -> None:
        self._owner = os.getpid()
        self._processes = [GraderProcess() for _ in range(self.workers)]
        # Last in, first out: a caller that grades one by one keeps using one process, and the others never start.
        self._idle: queue.LifoQueue[GraderProcess] = queue.LifoQueue()
        for process in self._processes:
            self._idle.put(process)
        self._finalizer = weakref.finalize(self, _kill_all, self._processes)

    def grade(self, items: Iterable[GradeItem], on_progress: Callable[[int, int], None] | None = None) -> list[Grade]:
        """Judge every item.

        Args:
            items: Answers, of any mixture of graders.
            on_progress: Called in this thread with the numbers of answers judged so far and in all.

        Returns:
            One grade per item, in their order. An answer that cannot be judged is a grade too (see `Grade.reason`).

        Raises:
            UserError: for an unknown grader, or if the grading processes cannot work on this machine.
        """
        items = list(items)
        for name in {item.grader for item in items}:
            check_grader(name)
        in_worker = [i for i, item in enumerate(items) if item.grader in IN_WORKER]
        grades: dict[int, Grade] = {}

        def done(index: int, grade: Grade) -> None:
            grades[index] = grade
            if on_progress is not None:
                on_progress(len(grades), len(items))

        with ThreadPoolExecutor(max(1, min(self.workers, len(in_worker))), "grader") as threads:
            pending = {threads.submit(self._grade_in_worker, items[i]): i for i in in_worker}
            try:
                for i, item in enumerate(items):
                    if item.grader in INLINE:
                        done(i, INLINE[item.grader](item.gold, item.response, item.row, **item.options))
                for future in as_completed(pending):
                    done(pending[future], future.result())
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return [grades[i] for i in range(len(items))]

    def close(self) -> None:
        """End the grading processes. A later `grade` starts new ones."""
        _kill_all(self._processes)

    def __enter__(self) -> "GraderPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grade_in_worker(self, item: GradeItem) -> Grade:
        try:
            gold = gold_text(item.gold)
            if not isinstance(item.response, str):
                raise TypeError(f"a response must be text, not {type(item.response).__name__}")
        except (TypeError, ValueError) as error:
            return failed(item.grader, type(error).__name__, str(error))
        if gold is None:
            return unknown("no_gold")
        if self._owner != os.getpid():
            self._forget_parent()
        process = self._idle.get()
        try:
            return process.grade(item.grader, gold, item.response, item.options, self.time_limit)
        finally:
            self._idle.put(process)

    def _forget_parent(self) -> None:
        # This is a forked child: the processes and the pipes are its parent's, the queue's lock may be held for ever.
        self._finalizer.detach()
        self._inherited = self._processes
        self._open()


def _kill_all(processes: Iterable[GraderProcess]) -> None:
    for process in processes:
        process.kill()
