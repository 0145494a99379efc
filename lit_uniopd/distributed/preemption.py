"""Stopping on a signal with nothing lost: all ranks stop at the same place, and a checkpoint of that place is written.

Lightning's own handling is not enough: it looks for the signal between training steps only, which are whole rollouts
here; it calls a collective inside the signal handler, in the midst of any other; and it saves nothing.
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

POLL_S = 1.0
"""How often a rank looks whether another one has received a signal."""


# --- stopping together ---


@contextmanager
def interruptible(trainer: Trainer, *, gathers: bool = False) -> Iterator[None]:
    """Around work that ranks do independently: on a signal each may leave it early, and all stop together after it.

    Args:
        trainer: of the run.
        gathers: whether sharded weights are gathered inside, more than once. A rank that left early would then keep the
            others waiting, so under sharding none does.
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
    """Stop here if any rank has received a signal. A collective call.

    Raises:
        Stopped: on all ranks or on none.
    """
    signum = request.signum
    if trainer.world_size > 1:
        signum_tensor = torch.tensor(float(signum), device=trainer.strategy.root_device)
        signum = int(trainer.strategy.reduce(signum_tensor, reduce_op="max"))
    if signum:
        _stop(trainer, signum)


def _stop(trainer: Trainer, signum: int) -> NoReturn:
    request.ask(signum)  # by now all ranks know
    module: Any = trainer.lightning_module
    module.on_stop()
    name, what_next = signal.Signals(signum).name, _save(trainer)
    if trainer.is_global_zero:
        log.warning("Stopped by %s %s", name, what_next)
    environment = getattr(trainer.strategy, "cluster_environment", None)
    # When a process that Lightning launched ends with a status other than 0, Lightning kills the main process at once.
    launched = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
    raise Stopped(0 if launched else 128 + signum)


def _save(trainer: Trainer) -> str:
    """Write ``last.ckpt``.

    Returns:
        Where the run stands and how to go on, for the log.
    """
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
    """Training batches since the last optimizer step.

    These are the one under way and those whose gradients Lightning has accumulated: no checkpoint holds them.
    """
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    ready = progress.current.ready
    if ready != progress.current.processed:
        return 1 + (ready - 1) % trainer.accumulate_grad_batches
    return 0 if progress.is_last_batch else ready % trainer.accumulate_grad_batches


def rewind_unfinished(trainer: Trainer, fit_loop: dict[str, Any]) -> bool:
    """Change the loops' state in a checkpoint so that the run resumes exactly.

    Lightning counts a batch as finished once it has handed it out, and resumes in the middle of a validation without
    the results of its first half.

    Args:
        trainer: at the moment of saving.
        fit_loop: state of the fit loop in the checkpoint; changed in place.

    Returns:
        Whether a step is under way; the resumed run begins it anew.
    """
    unfinished = unfinished_batches(trainer)
    _reopen_epoch(trainer, fit_loop)
    if unfinished:
        progress = fit_loop["epoch_loop.batch_progress"]
        for count in (progress["total"], progress["current"]):
            finished = count["ready"] - unfinished
            count.update(ready=finished, started=finished, processed=finished, completed=finished)
        progress["is_last_batch"] = False
    elif trainer.validating and request.signum:  # without a signal the validation is at its end
        progress = fit_loop["epoch_loop.val_loop.batch_progress"]
        total = progress["total"]
        total["processed"] = total["completed"]
        total["ready"] = total["started"] = total["completed"] + 1  # how Lightning recognises an unfinished one
        progress["current"] = dict.fromkeys(progress["current"], 0)
        progress["is_last_batch"] = False
    return unfinished > 0


def rescale_progress(fit_loop: dict[str, Any], *, before: int, now: int) -> None:
    """Count the batches of a checkpoint in batches of another size: Lightning knows their number alone.

    Args:
        fit_loop: state of the fit loop in the checkpoint; changed in place.
        before: rows of a batch of all ranks, when it was written.
        now: the same of the run that goes on.
    """
    for count in (fit_loop["epoch_loop.batch_progress"][name] for name in ("total", "current")):
        count.update({key: value * before // now for key, value in count.items()})


def _reopen_epoch(trainer: Trainer, fit_loop: dict[str, Any]) -> None:
    """Of a checkpoint that is saved at the end of an epoch or of the training: say which batch comes next.

    Lightning would resume it rightly only where it need not go on: a run that is prolonged by `max_steps` would take
    the epoch's batches for those of the next, and leave as many out; and where `max_steps` has ended a run in the
    middle of an epoch, that epoch would count as a whole one.
    """
    epochs, batches = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    ready = epochs["current"]["ready"]
    if epochs["current"]["processed"] != ready or ready == 0:  # under way
        return
    is_whole = batches["current"]["ready"] >= trainer.num_training_batches
    for count in (epochs["total"], epochs["current"]):
        count["processed"] -= not is_whole
        count["completed"] = count["processed"]
    if is_whole:
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False


# --- receiving signals ---


class StopSignals(SignalConnector):
    """SIGTERM, Ctrl-C and SLURM's requeue signal ask the run to stop; a second Ctrl-C stops it at once."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self._watcher: _SignalWatcher | None = None
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
            signal.signal(signum, self._on_signal)
        if self.trainer.world_size > 1 and torch.distributed.is_initialized():
            self._watcher = _SignalWatcher(signums)
            self._watcher.start()

    def teardown(self) -> None:
        if self._watcher is not None:
            self._watcher.end()
            self._watcher = None
        request.clear()
        super().teardown()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        if self.trainer.is_global_zero:
            again = " (Ctrl-C again: at once)" if signum == signal.SIGINT else ""
            with contextlib.suppress(OSError):
                os.write(2, f"\n{signal.Signals(signum).name}: stopping and saving{again} ...\n".encode())
        request.ask(signum)
        original = self._original_handlers.get(signum)
        if signum == signal.SIGTERM and callable(original):
            original(signum, frame)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_watcher": None}


class _SignalWatcher(threading.Thread):
    """Passes this rank's signal on to the other ranks, and theirs to this one.

    A rank that waits in a collective call for another one, which is sampling, runs no Python signal handler. Its signal
    arrives here through the wake-up pipe, is written to the ranks' store, and so ends the other rank's sampling.
    """

    runs = 0
    """The same on all ranks; keeps a later run in the same processes from reading an old request."""

    def __init__(self, signums: set[int]) -> None:
        super().__init__(name="stop watch", daemon=True)
        _SignalWatcher.runs += 1
        self.key = f"lit_uniopd/stop/{_SignalWatcher.runs}"
        self.signums = signums
        self.store = torch.distributed.distributed_c10d._get_default_store()
        self.ended = threading.Event()
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        os.set_blocking(self.reader, False)
        self.fd_before = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)

    def run(self) -> None:
        while not self.ended.is_set():
            ready, _, _ = select.select([self.reader], [], [], POLL_S)
            for signum in os.read(self.reader, 64) if ready else b"":
                if signum in self.signums:
                    request.ask(signum)
            try:
                if request.signum:
                    self.store.set(self.key, str(request.signum))
                    return
                if self.store.check([self.key]):
                    request.ask(int(self.store.get(self.key)))
            except (RuntimeError, ValueError):  # the rank that keeps the store is gone; the next collective will say so
                return

    def end(self) -> None:
        """Wait for the thread, and restore the wake-up pipe."""
        signal.set_wakeup_fd(self.fd_before)
        self.ended.set()
        os.write(self.writer, b"\0")
        self.join(timeout=5)
        os.close(self.writer)
        os.close(self.reader)
