"""How datamodules and callbacks log what they did to a rollout."""

from collections.abc import Mapping

from lightning import Trainer

from lit_uniopd.utils.lightning_internals import logged_step


def log_values(trainer: Trainer, values: Mapping[str, float]) -> None:
    """Write values that are already averaged over ranks to the loggers, at the step of the module's own curves.

    ``LightningModule.log`` spends a quarter of a millisecond per value on sums and monitors that these do not need.
    Other callbacks cannot monitor them.

    Args:
        trainer: decides, by ``log_every_n_steps``, whether this step is logged.
        values: tag -> value.
    """
    step = logged_step(trainer)
    if trainer.is_global_zero and (step + 1) % trainer.log_every_n_steps == 0:  # pyright: ignore[reportAttributeAccessIssue] (set by a connector)
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=step)
