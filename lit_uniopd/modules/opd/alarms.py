"""What a step's averages warn of: a run that trains on something else than it seems to."""

import logging
from collections.abc import Mapping, Sequence

from lit_uniopd.modules.opd.losses import LossArgs

log = logging.getLogger(__name__)

GAP_LIMIT = 0.05
"""Share of the tokens that the gap mask may take before it is warned of."""
UNKNOWN_LIMIT = 0.5
"""Share of a rollout's outcomes that may stay unknown where something needs them."""


class Alarms:
    """Warns once of each thing that is wrong."""

    def __init__(self) -> None:
        self.raised: set[str] = set()

    def check(
        self, metrics: Mapping[str, float], loss: LossArgs, outcome_users: Sequence[str] = (), *, step: int
    ) -> None:
        """Look at what a step has logged.

        Args:
            metrics: tag -> average over all ranks.
            loss: of the run.
            outcome_users: what in the run can do nothing without outcomes.
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

        unknown = metrics.get("rollout/unknown_outcomes", 0.0)
        if outcome_users and unknown > UNKNOWN_LIMIT:
            self._warn(
                "outcomes",
                f"{unknown:.0%} of the outcomes of the rollout of step {step} are unknown, and "
                f"{', '.join(outcome_users)} can do nothing with those; the log has the first failure of each grader, "
                "and docs/troubleshooting.md what to look at.",
            )

    def _warn(self, name: str, message: str) -> None:
        if name not in self.raised:
            self.raised.add(name)
            log.warning(message)
