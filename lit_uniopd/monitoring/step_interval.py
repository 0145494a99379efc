"""When something is due that is to happen every so many optimizer steps."""

from lightning import Trainer

from lit_uniopd.utils.lightning_internals import steps_next


def passes_multiple(before: int, after: int, every: int) -> bool:
    """Whether a multiple of ``every`` lies in ``(before, after]``.

    A batch may be several optimizer steps, as with Uni-OPD's ``updates_per_rollout``, and jump over the multiple.

    Args:
        before: optimizer steps at the last look; -1: there was none, so that 0 counts.
        after: optimizer steps now.
        every: optimizer steps between two multiples.

    Example:
        >>> passes_multiple(8, 12, every=10), passes_multiple(12, 16, every=10), passes_multiple(-1, 0, every=10)
        (True, False, True)
    """
    return after // every > before // every


def batch_passes_multiple(trainer: Trainer, every: int | None) -> bool:
    """Whether the batch that ends now is the first to end at or after a multiple of ``every`` optimizer steps.

    To be asked in ``on_train_batch_end``. It depends on the step alone, so a resumed run answers as an unbroken one.

    Args:
        trainer: of the run.
        every: optimizer steps; null: never.
    """
    if every is None or not steps_next(trainer):
        return False
    return passes_multiple(trainer.global_step - _steps_of_a_batch(trainer), trainer.global_step, every)


def rollout_passes_multiple(trainer: Trainer, every: int, *, updated: bool = False) -> bool:
    """Whether the rollout under way is the first that was written at or after a multiple of ``every`` optimizer steps.

    The first rollout of a run is one: 0 is a multiple.

    Args:
        trainer: of the run.
        every: optimizer steps.
        updated: whether its own optimizer steps are made, as in ``on_train_batch_end``; False in
            ``on_rollouts_scored``.
    """
    steps = _steps_of_a_batch(trainer)
    written_at = trainer.global_step - steps * updated
    return passes_multiple(written_at - steps, written_at, every)


def _steps_of_a_batch(trainer: Trainer) -> int:
    """Optimizer steps in each training batch; of modules that do not say: one."""
    return getattr(trainer.lightning_module, "steps_per_batch", 1)
