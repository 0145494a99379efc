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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lit_uniopd.grade import KILLED, Grade
from lit_uniopd.rewards.code import check_sandbox, program_slots
from lit_uniopd.rewards.custom import is_custom, load_grader
from lit_uniopd.rewards.fork_server import ForkServer
from lit_uniopd.rewards.grade import failed, gold_text, guarded, unknown
from lit_uniopd.rewards.process import GraderProcess
from lit_uniopd.rewards.registry import IN_THREAD, IN_WORKER, INLINE, check_grader
from lit_uniopd.utils.stop_request import poll

if TYPE_CHECKING:
    from lit_uniopd.sandbox import Sandbox, SandboxArgs

PATIENCE_S = 0.3
"""An answer that takes longer is set aside: it keeps its time limit, and its place goes to what stands behind it."""
ASIDE_PER_WORKER = 4
"""Answers of one pool that may be set aside at once, for each of its workers; more would only fight for the cores."""


@dataclass(frozen=True, slots=True)
class GradeItem:
    """One answer to be judged."""

    grader: str
    """Key of ``GRADERS``, or the dotted path of a user's own."""
    gold: Any
    response: str
    row: Mapping[str, Any] | None = None
    """The other columns of the prompt's row."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the grader; plain data."""
    messages: Sequence[Mapping[str, Any]] = ()
    """The conversation that it answers, for graders of users."""


class GraderPool:
    """Grades answers in order, the risky graders in ``workers`` separate processes, programs in sandboxes.

    The processes start when first needed, and end with the pool or with this process. One that exceeds the time limit
    is killed, one that dies is replaced, and in both cases only its current answer suffers. An answer that takes more
    than `PATIENCE_S` is set aside, so that several hostile ones cost their time limit once. Each program has a sandbox
    of its own; one core is left to this process. Threads may share a pool. It is also a context manager.
    """

    def __init__(
        self,
        workers: int = 1,
        time_limit: float = 10.0,
        sandbox: "SandboxArgs | None" = None,
        killed: Literal["incorrect", "unknown"] = "incorrect",
    ) -> None:
        """Nothing is started yet.

        Args:
            workers: Grading processes of one core each; also the most programs that run at once.
            time_limit: Wall seconds per answer; beyond it the reason is ``timeout``. A busy machine needs more: the
                limit includes waiting for a core. Programs have limits of their own (see `lit_uniopd.rewards.code`).
            sandbox: Where programs run; None: in the best sandbox of this machine.
            killed: What an answer is that exceeds the time limit (reason ``timeout``) or its process's memory
                (``memory``): incorrect, as for math-verify and EvalPlus, or unknown. Programs are always incorrect.

        Raises:
            ValueError: if ``workers`` or ``time_limit`` is not positive.
        """
        if workers < 1 or time_limit <= 0:
            raise ValueError(f"workers and time_limit must be positive, not {workers} and {time_limit}")
        self.workers = workers
        self.time_limit = time_limit
        self.sandbox_args = sandbox
        self.killed = killed
        self._open()

    def _open(self) -> None:
        self._owner = os.getpid()
        self._sandbox: Sandbox | None = None
        self._programs = threading.BoundedSemaphore(min(self.workers, program_slots()))
        self._aside = threading.BoundedSemaphore(ASIDE_PER_WORKER * self.workers)
        self._server = ForkServer()
        self._processes = [GraderProcess(self._server) for _ in range(self.workers)]
        # Last in, first out: a caller that grades one by one keeps using one process, and the others never start.
        self._idle: queue.LifoQueue[GraderProcess] = queue.LifoQueue()
        for process in self._processes:
            self._idle.put(process)
        self._finalizer = weakref.finalize(self, _kill_all, self._processes, self._server)

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
        """Begin to judge every item and return at once.

        Only graders that merely compare strings, and those of users, run here.

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
            for name in dict.fromkeys(item.grader for item in items if is_custom(item.grader)):
                chosen = [(item, future) for item, future in zip(items, futures, strict=True) if item.grader == name]
                grades = load_grader(name).grade([item for item, _ in chosen])
                for (_, future), grade in zip(chosen, grades, strict=True):
                    future.set_result(grade)
        except BaseException:
            _cancel(futures)
            raise
        return futures

    def _start(self, items: list[GradeItem]) -> "list[Future[Grade]]":
        self.prepare(item.grader for item in items)
        futures: list[Future[Grade]] = [Future() for _ in items]
        for kind, judge in ((IN_WORKER, self._grade_in_worker), (IN_THREAD, self._grade_in_thread)):
            jobs = deque((item, future) for item, future in zip(items, futures, strict=True) if item.grader in kind)
            for _ in range(min(self.workers, len(jobs))):
                _in_thread(self._work_off, jobs, judge)
        return futures

    def close(self) -> None:
        """End the grading processes. A later `grade` starts new ones."""
        _kill_all(self._processes, self._server)

    def __enter__(self) -> "GraderPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grade_in_worker(self, item: GradeItem, turn: "_Turn") -> Grade:
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
            process.start()  # not at the cost of the answer's patience
            turn.begin(self._add_process)
            grade = process.grade(item.grader, gold, item.response, item.options, self.time_limit)
        finally:
            if turn.end():  # its place is taken
                process.kill()
                self._processes.remove(process)
            else:
                self._idle.put(process)
        lost = self.killed == "incorrect" and grade.correct is None and grade.reason in KILLED
        return Grade(False, 0.0, reason=grade.reason) if lost else grade

    def _add_process(self) -> None:
        process = GraderProcess(self._server)
        self._processes.append(process)
        self._idle.put(process)

    def _grade_in_thread(self, item: GradeItem, turn: "_Turn") -> Grade:
        judge = guarded(item.grader, IN_THREAD[item.grader])
        self._programs.acquire()
        turn.begin(self._programs.release)
        try:
            return judge(item.gold, item.response, item.row, **{**item.options, "sandbox": self._sandbox})
        finally:
            if not turn.end():
                self._programs.release()

    def _work_off(self, jobs: "deque[tuple[GradeItem, Future[Grade]]]", judge: "_Judge") -> None:
        turn: _Turn | None = None
        while turn is None or not turn.given:
            try:
                item, future = jobs.popleft()
            except IndexError:
                return
            if not future.set_running_or_notify_cancel():
                continue
            turn = _Turn(self._aside, lambda: _in_thread(self._work_off, jobs, judge))
            try:
                future.set_result(judge(item, turn))
            except BaseException as error:
                future.set_exception(error)

    def _forget_parent(self) -> None:
        # This is a forked child: the processes and the pipes are its parent's, the queue's lock may be held for ever.
        self._finalizer.detach()
        self._inherited = self._processes, self._server
        self._open()


class _Turn:
    """The time that one answer is being judged; after `PATIENCE_S` its place is given away.

    Args:
        aside: bounds how many answers are set aside.
        go_on: takes up what stands behind the answer.
    """

    def __init__(self, aside: threading.BoundedSemaphore, go_on: Callable[[], None]) -> None:
        self.given = False
        self._aside, self._go_on = aside, go_on
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._over = False

    def begin(self, release: Callable[[], None]) -> None:
        """From now on the answer's place is in use; ``release`` gives it away."""
        self._release = release
        self._wait()

    def end(self) -> bool:
        """Whether the place was given away meanwhile."""
        with self._lock:
            self._over = True
            if self._timer is not None:
                self._timer.cancel()
            if self.given:
                self._aside.release()
            return self.given

    def _wait(self) -> None:
        self._timer = threading.Timer(PATIENCE_S, self._give)
        self._timer.daemon = True
        self._timer.start()

    def _give(self) -> None:
        with self._lock:
            if self._over:
                return
            if not self._aside.acquire(blocking=False):
                self._wait()
                return
            self.given = True
            self._release()
        self._go_on()


_Judge = Callable[[GradeItem, _Turn], Grade]


def _in_thread(target: Callable[..., None], *arguments: Any) -> None:
    # Daemons, and new ones each time: neither the end of the program nor a fork may wait for them.
    threading.Thread(target=target, args=arguments, name="grader", daemon=True).start()


def _kill_all(processes: list[GraderProcess], server: ForkServer) -> None:
    for process in [*processes]:
        process.kill()
    server.close()


def _cancel(futures: "list[Future[Grade]]") -> None:
    for future in futures:
        future.cancel()
