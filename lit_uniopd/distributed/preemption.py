"""Stopping on a signal with nothing lost: all ranks leave at the same place, and a checkpoint of that place is written.

Lightning's own way does not do for us: it looks for the signal between training steps only, which are rollouts here;
it exchanges tensors inside of the signal handler, between whatever other exchange is under way; and it saves nothing.
"""

import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from lit_uniopd.utils.lightning_internals import SignalConnector
from lit_uniopd.utils.stop_request import Stopped, request

log = logging.getLogger(__name__)

WATCH_S = 1.0
"""How often a rank asks whether another one was told to stop."""


# --- leaving together ---


@contextmanager
def interruptible(trainer: Trainer, *, gathers: bool = False) -> Iterator[None]:
    """A part of a step in which ranks go their own ways: each may leave it early, and all of them stop behind it.

    Args:
        trainer: of the run.
        gathers: whether the weights of sharded models are exchanged inside of it, more than once. Then a rank that left
            early would leave the others waiting, and under sharding none does.
    """
    sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
    request.interruptible = not (sharded and gathers)
    try:
        yield
    except Stopped:
        pass
    finally:
        request.interruptible = False
    stop_if_requested(trainer)


def stop_if_requested(trainer: Trainer) -> None:
    """Stop here if any rank was told to. A collective call.

    Raises:
        Stopped: on all ranks or on none.
    """
    signum = request.signum
    if trainer.world_size > 1:
        told = torch.tensor(float(signum), device=trainer.strategy.root_device)
        signum = int(trainer.strategy.reduce(told, reduce_op="max"))
    if signum:
        _leave(trainer, signum)


def _leave(trainer: Trainer, signum: int) -> NoReturn:
    request.ask(signum)  # by now all ranks know
    module: Any = trainer.lightning_module
    module.on_stop()
    name, what_next = signal.Signals(signum).name, _save(trainer)
    if trainer.is_global_zero:
        log.warning("Stopped by %s %s", name, what_next)
    environment = getattr(trainer.strategy, "cluster_environment", None)
    # Lightning kills the main process, at whatever it is doing, when one that it launched ends with another status.
    launched = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
    raise Stopped(0 if launched else 128 + signum)


def _save(trainer: Trainer) -> str:
    """Write ``last.ckpt``; where the run stands and how to go on, for people."""
    if trainer.state.fn != "fit":
        return "before the end; what is recorded is kept, and the same command goes on from there."
    module: Any = trainer.lightning_module
    where = f"at step {trainer.global_step}{module.place_in_step()}"
    if trainer.global_step == 0 and not module.place_in_step():
        return f"{where}: nothing was trained yet; give the same command to start again."
    saver = trainer.checkpoint_callback
    if not isinstance(saver, ModelCheckpoint):
        return f"{where}; nothing was saved, because --trainer.enable_checkpointing is false."
    path = saver.last_model_path or saver.format_checkpoint_name({}, filename=saver.CHECKPOINT_NAME_LAST)
    saver.last_model_path = path  # it belongs to the state that is saved: the resumed run replaces the file
    trainer.save_checkpoint(path, weights_only=False)
    if trainer.fit_loop.done:
        return f"{where}, when all steps were done; {path} holds the result, for `uniopd validate --ckpt_path last`."
    return f"{where}; saved {path}; go on with the same command and --ckpt_path last."


def unfinished_batches(trainer: Trainer) -> int:
    """Batches that were handed out for training and are in no optimizer step yet, while one is under way.

    Beside that one these are the batches whose gradients Lightning accumulates: they are in no checkpoint.
    """
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    if progress.ready == progress.processed:
        return 0
    return 1 + (progress.ready - 1) % trainer.accumulate_grad_batches


def rewind_unfinished(trainer: Trainer, fit_loop: dict[str, Any]) -> bool:
    """Make the loops' state of a checkpoint one that resumes exactly.

    Lightning counts a batch that it has handed out as one that has been, and goes on in the middle of a validation
    without the answers that the first half of it gave.

    Args:
        trainer: at the moment of saving.
        fit_loop: state of the fit loop in the checkpoint; changed in place.

    Returns:
        Whether a training batch is under way, which the resumed run then begins anew.
    """
    unfinished = unfinished_batches(trainer)
    if unfinished:
        progress = fit_loop["epoch_loop.batch_progress"]
        for count in (progress["total"], progress["current"]):
            finished = count["completed"] - (unfinished - 1)
            count.update(ready=finished, started=finished, processed=finished, completed=finished)
        progress["is_last_batch"] = False
    elif trainer.validating and request.signum:  # not at its end, where checkpoints are written in the ordinary way
        progress = fit_loop["epoch_loop.val_loop.batch_progress"]
        total = progress["total"]
        total["processed"] = total["completed"]
        total["ready"] = total["started"] = total["completed"] + 1  # by which Lightning knows that it was in the midst
        progress["current"] = dict.fromkeys(progress["current"], 0)
        progress["is_last_batch"] = False
    return unfinished > 0


# --- hearing of it ---


class StopSignals(SignalConnector):
    """SIGTERM, Ctrl-C and SLURM's requeue signal ask the run to stop; a second Ctrl-C stops it at once."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self._watch: _Watch | None = None
        self._interrupted = False

    def register_signal_handlers(self) -> None:
        super().register_signal_handlers()
        self._interrupted = False
        if threading.current_thread() is not threading.main_thread():
            return
        environment = getattr(self.trainer.strategy, "cluster_environment", None)
        signums: set[int] = {signal.SIGTERM, signal.SIGINT}
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            signums.add(environment.requeue_signal)
        for signum in signums:
            signal.signal(signum, self._asked)
        if self.trainer.world_size > 1 and torch.distributed.is_initialized():
            self._watch = _Watch(signums)
            self._watch.start()

    def teardown(self) -> None:
        if self._watch is not None:
            self._watch.end()
            self._watch = None
        request.clear()
        super().teardown()

    def _asked(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        if self.trainer.is_global_zero:
            again = " (Ctrl-C again: at once)" if signum == signal.SIGINT else ""
            with contextlib.suppress(OSError):
                os.write(2, f"\n{signal.Signals(signum).name}: stopping and saving{again} ...\n".encode())
        request.ask(signum)
        before = self._original_handlers.get(signum)
        if signum == signal.SIGTERM and callable(before):
            before(signum, frame)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_watch": None}


class _Watch(threading.Thread):
    """Tells the other ranks of a signal, and this one of theirs.

    A rank that waits in a collective call for another one, which samples, runs no Python handler; its signal arrives
    here through the wake-up pipe, goes to the store by which the ranks found each other, and ends the other's sampling.
    """

    runs = 0
    """Counted alike on all ranks, so that a later run in the same processes does not read an old request."""

    def __init__(self, signums: set[int]) -> None:
        super().__init__(name="stop watch", daemon=True)
        _Watch.runs += 1
        self.key = f"lit_uniopd/stop/{_Watch.runs}"
        self.signums = signums
        self.store = torch.distributed.distributed_c10d._get_default_store()
        self.ended = threading.Event()
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        os.set_blocking(self.reader, False)
        self.fd_before = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)

    def run(self) -> None:
        while not self.ended.is_set():
            ready, _, _ = select.select([self.reader], [], [], WATCH_S)
            for signum in os.read(self.reader, 64) if ready else b"":
                if signum in self.signums:
                    request.ask(signum)
            try:
                if request.signum:
                    self.store.set(self.key, str(request.signum))
                    return
                if self.store.check([self.key]):
                    request.ask(int(self.store.get(self.key)))
            except (
                RuntimeError,
                ValueError,
            ):  # the rank that keeps the store is gone; the next collective call says so
                return

    def end(self) -> None:
        """Wait for the thread, and put the wake-up pipe back."""
        signal.set_wakeup_fd(self.fd_before)
        self.ended.set()
        os.write(self.writer, b"\0")
        self.join(timeout=5)
        os.close(self.writer)
        os.close(self.reader)
