"""Something that looks at a run, or changes what is trained on."""

from lightning import Callback, LightningModule, Trainer

from lit_uniopd.types import Rollouts


class DropLongAnswers(Callback):
    """Train on no answer that is longer than a limit; it still counts in the denominator of the loss.

    Args:
        limit: in tokens.
    """

    def __init__(self, limit: int = 30) -> None:
        self.limit = limit
        self.dropped = 0

    def on_rollouts_scored(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> None:
        long_B = rollouts.lengths_B > self.limit
        rollouts.keep_B[long_B] = False
        self.dropped += int(long_B.sum())
        pl_module.log("my/dropped", float(self.dropped))
