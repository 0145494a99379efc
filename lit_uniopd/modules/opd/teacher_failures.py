"""When teachers lose too many answers."""

from collections.abc import Mapping

from lightning import LightningModule

from lit_uniopd.distributed.collectives import sum_over_ranks
from lit_uniopd.errors import UserError
from lit_uniopd.types import Rollouts


def check_failures(module: LightningModule, rollouts: Rollouts, reasons: Mapping[str, int], *, limit: float) -> None:
    """Stop when too many answers could not be scored: training on the rest would be another experiment.

    Args:
        module: of the run. A collective call.
        rollouts: after scoring.
        reasons: why this rank's answers were not scored -> how many.
        limit: share of the answers of all ranks that may be lost.

    Raises:
        UserError: naming teachers and reasons.
    """
    failed = sum_over_ranks(module, int((~rollouts.teacher_ok_B).sum()))
    share = failed / sum_over_ranks(module, len(rollouts))
    if share > limit:
        summary = "; ".join(f"{reason}: {n}" for reason, n in sorted(reasons.items()))
        raise UserError(
            f"Teachers could not score {share:.0%} of the answers of step {module.global_step} "
            f"({summary or 'on other ranks'}), more than --model.max_teacher_failures {limit}; "
            "mend the teacher, or raise the limit."
        )
