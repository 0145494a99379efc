"""One mean over everything that an optimizer step is made of, where Lightning takes a mean of the batches' means."""

import torch
from lightning import LightningModule
from torch import Tensor

from lit_uniopd.utils.lightning_internals import steps_next


class StepMean:
    """Weighs the batches of an optimizer step by what they hold, over ``accumulate_grad_batches`` and over ranks.

    Lightning divides the loss of each batch by ``accumulate_grad_batches``, also in a last step that has fewer batches,
    and averages gradients over ranks. How much a step holds is known when its last batch is: until then each batch
    counts in units of the first one's content on an average rank, and the last one brings gradients to the mean.
    Without accumulation they are left as they are.
    """

    def __init__(self) -> None:
        self._unit = 0.0
        self._counts: list[int] = []

    def restart(self) -> None:
        """Forget a step that was not finished; to be called in ``on_train_start``."""
        self._counts = []

    def weighted(self, module: LightningModule, loss: Tensor, count: int) -> Tensor:
        """The mean loss of a batch, to be returned from ``training_step``.

        Args:
            module: that trains.
            loss: mean over the batch of this rank.
            count: how many values, tokens say, that mean is over.
        """
        if not self._counts:
            self._unit = _mean_over_ranks(module, count)
        self._counts.append(count)
        return loss * (count / self._unit)

    def after_backward(self, module: LightningModule) -> None:
        """Bring the gradients of a step to the mean when its last batch is in; called in ``on_after_backward``."""
        if not steps_next(module.trainer):
            return
        batches, counts = module.trainer.accumulate_grad_batches, self._counts
        self._counts = []
        if batches == 1:
            return
        factor = batches * self._unit / _mean_over_ranks(module, sum(counts))
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


def _mean_over_ranks(module: LightningModule, count: int) -> float:
    """At least one value in all, so that nothing is divided by zero."""
    trainer = module.trainer
    if trainer.world_size == 1:
        return max(count, 1)
    total = torch.tensor(float(count), dtype=torch.float64, device=module.device)
    return max(float(trainer.strategy.reduce(total, reduce_op="sum")), 1.0) / trainer.world_size
