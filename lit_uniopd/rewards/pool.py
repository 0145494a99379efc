"""Grading many answers in processes that can be killed.

A library (tried: pebble 5.2) would lose the JSON-only wire: it unpickles what workers send, so that a worker which text
of a model has taken over executes code in the training process. It would also need a main guard in scripts, and leave
a worker that is stuck in C code running after its parent was killed.
"""

import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.code import check_sandbox, program_slots
from lit_uniopd.rewards.grade import failed, gold_text, guarded, unknown
from lit_uniopd.rewards.process import GraderProcess
from lit_uniopd.rewards.registry import IN_THREAD, IN_WORKER, INLINE, check_grader
from lit_uniopd.utils.stop_request import poll

if TYPE_CHECKING:
    from lit_uniopd.sandbox import Sandbox, SandboxArgs


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
    """Grades answers in order, the risky graders in ``workers`` separate processes, programs in sandboxes.

    The processes start when first needed, and end with the pool or with this process. One that exceeds the time limit
    is killed, one that dies is replaced, and in both cases only its current answer suffers. Each program has a sandbox
    of its own; one core is left to this process. Threads may share a pool. It is also a context manager.
    """

    def __init__(self, workers: int = 1, time_limit: float = 10.0, sandbox: "SandboxArgs | None" = None) -> None:
        """Nothing is started yet.

        Args:
            workers: Grading processes of one core each; also the most programs that run at once.
            time_limit: Wall seconds per answer; beyond it the reason is ``timeout``. A busy machine needs more: the
                limit includes waiting for a core. Programs have limits of their own (see `lit_uniopd.rewards.code`).
            sandbox: Where programs run; None: in the best sandbox of this machine.

        Raises:
            ValueError: if ``workers`` or ``time_limit`` is not positive.
        """
        if workers < 1 or time_limit <= 0:
            raise ValueError(f"workers and time_limit must be positive, not {workers} and {time_limit}")
        self.workers = workers
        self.time_limit = time_limit
        self.sandbox_args = sandbox
        self._open()

    def _open(self) -> None:
        self._owner = os.getpid()
        self._sandbox: Sandbox | None = None
        self._programs = threading.BoundedSemaphore(min(self.workers, program_slots()))
        self._processes = [GraderProcess() for _ in range(self.workers)]
        # Last in, first out: a caller that grades one by one keeps using one process, and the others never start.
        self._idle: queue.LifoQueue[GraderProcess] = queue.LifoQueue()
        for process in self._processes:
            self._idle.put(process)
        self._finalizer = weakref.finalize(self, _kill_all, self._processes)

    @property
    def sandbox_backend(self) -> str | None:
        """What isolates programs from this machine; None before the first program and before `prepare`."""
        return None if self._sandbox is None else self._sandbox.backend

    def prepare(self, graders: Iterable[str]) -> None:
        """Find out early whether these graders can work.

        Raises:
            UserError: for an unknown grader, or if one runs programs and no sandbox works.
        """
        names = set(graders)
        for name in names:
            check_grader(name)
        if self._owner != os.getpid():
            self._forget_parent()
        if self._sandbox is None and not names.isdisjoint(IN_THREAD):
            self._sandbox = check_sandbox(self.sandbox_args)

    def grade(self, items: Iterable[GradeItem], on_progress: Callable[[int, int], None] | None = None) -> list[Grade]:
        """Judge every item.

        Args:
            items: Answers, of any mixture of graders.
            on_progress: Called in this thread with the number of answers judged so far and their total.

        Returns:
            One grade per item, in their order. An answer that cannot be judged is a grade too (see `Grade.reason`).

        Raises:
            UserError: for an unknown grader, or if the grading processes or the sandbox cannot work on this machine.
        """
        return self.collect(self.submit(items), on_progress)

    @staticmethod
    def collect(futures: "list[Future[Grade]]", on_progress: Callable[[int, int], None] | None = None) -> list[Grade]:
        """Wait for what was submitted.

        Args:
            futures: Of `submit`. If one raises, or this is interrupted, those that have not begun are cancelled.
            on_progress: As in `grade`.

        Returns:
            Their grades, in their order.

        Raises:
            UserError: if the grading processes cannot work on this machine.
        """
        try:
            for judged, future in enumerate(as_completed(futures), start=1):
                poll()
                future.result()
                if on_progress is not None:
                    on_progress(judged, len(futures))
        except BaseException:
            _cancel(futures)
            raise
        return [future.result() for future in futures]

    def submit(self, items: Iterable[GradeItem]) -> "list[Future[Grade]]":
        """Begin to judge every item and return at once; only graders that merely compare strings run here.

        A cancelled future that has not begun never does. What is still running when this process ends is dropped.

        Returns:
            One future per item, in their order. Its result is a grade; it raises `UserError` if the grading processes
            cannot work on this machine.

        Raises:
            UserError: for an unknown grader, or if no sandbox works.
        """
        items = list(items)
        futures = self._start(items)
        try:
            for item, future in zip(items, futures, strict=True):
                if item.grader in INLINE:
                    future.set_result(INLINE[item.grader](item.gold, item.response, item.row, **item.options))
        except BaseException:
            _cancel(futures)
            raise
        return futures

    def _start(self, items: list[GradeItem]) -> "list[Future[Grade]]":
        self.prepare(item.grader for item in items)
        futures: list[Future[Grade]] = [Future() for _ in items]
        for kind, judge in ((IN_WORKER, self._grade_in_worker), (IN_THREAD, self._grade_in_thread)):
            jobs = deque((item, future) for item, future in zip(items, futures, strict=True) if item.grader in kind)
            # Daemons, and new ones each time: neither the end of the program nor a fork may wait for them.
            for _ in range(min(self.workers, len(jobs))):
                threading.Thread(target=_work_off, args=(jobs, judge), name="grader", daemon=True).start()
        return futures

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
        process = self._idle.get()
        try:
            return process.grade(item.grader, gold, item.response, item.options, self.time_limit)
        finally:
            self._idle.put(process)

    def _grade_in_thread(self, item: GradeItem) -> Grade:
        judge = guarded(item.grader, IN_THREAD[item.grader])
        with self._programs:
            return judge(item.gold, item.response, item.row, **{**item.options, "sandbox": self._sandbox})

    def _forget_parent(self) -> None:
        # This is a forked child: the processes and the pipes are its parent's, the queue's lock may be held for ever.
        self._finalizer.detach()
        self._inherited = self._processes
        self._open()


def _kill_all(processes: Iterable[GraderProcess]) -> None:
    for process in processes:
        process.kill()


def _cancel(futures: "list[Future[Grade]]") -> None:
    for future in futures:
        future.cancel()


def _work_off(jobs: "deque[tuple[GradeItem, Future[Grade]]]", judge: Callable[[GradeItem], Grade]) -> None:
    while True:
        try:
            item, future = jobs.popleft()
        except IndexError:
            return
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(judge(item))
        except BaseException as error:
            future.set_exception(error)
