"""What a step's averages warn of: a run that trains on something else than it seems to."""

import logging
from collections.abc import Mapping

from lit_uniopd.modules.opd.losses import LossArgs

log = logging.getLogger(__name__)

GAP_LIMIT = 0.05
"""Share of the tokens that the gap mask may take before it is warned of."""


class Alarms:
    """Warns once of each thing that is wrong."""

    def __init__(self) -> None:
        self.raised: set[str] = set()

    def check(self, metrics: Mapping[str, float], loss: LossArgs, *, step: int) -> None:
        """Look at what a step has logged.

        Args:
            metrics: tag -> average over all ranks.
            loss: of the run.
            step: optimizer steps taken.
        """
        masked = metrics.get("train/gap_fraction", 0.0)
        if masked > GAP_LIMIT:
            self._warn(
                "gap",
                f"The gap mask takes {masked:.1%} of the tokens of step {step}: where student and teacher differ by "
                f"--model.loss.gap_threshold {loss.gap_threshold} nats or more, nothing is learned, so train/loss may "
                "fall while train/kl_all_tokens rises; raise the threshold, or set it to null.",
            )

    def _warn(self, name: str, message: str) -> None:
        if name not in self.raised:
            self.raised.add(name)
            log.warning(message)
