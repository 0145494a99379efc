"""Log-probs of a rollout's answers under all who have to score them."""

from typing import Any

import torch
from torch import Tensor

from lit_uniopd.distributed.collectives import wait_for_ranks
from lit_uniopd.distributed.preemption import interruptible
from lit_uniopd.modules.opd.engine_drift import check_drift
from lit_uniopd.modules.opd.scoring import frozen_logps
from lit_uniopd.modules.opd.teacher_failures import check_failures
from lit_uniopd.types import Rollouts


def ask_teachers(module: Any, rollouts: Rollouts) -> Tensor | None:
    """Fill in the teachers' log-probs, and the student's where another has written. A collective call.

    Args:
        module: ``UniOPD`` in training.
        rollouts: this rank's answers.

    Returns:
        The reference's log-probs ``[B, T]``, where the advantages need them.
    """
    reference_BT: Tensor | None = None
    options: dict[str, Any] = {"temperature": module.temperature, "max_tokens": module.micro_batch_tokens}
    with module.timed("score"):
        if module.phase.writer == "teacher" or module.phase.sampling.engine == "vllm":
            rollouts.student_logps_BT = frozen_logps(module.policy, rollouts, **options)
            check_drift(module, rollouts, module.phase.sampling)
        if module.advantage.needs_reference:
            with module.policy.reference() as reference:
                reference_BT = frozen_logps(reference, rollouts, **options)
        if module.teachers:
            with interruptible(module.trainer, gathers=True):
                rollouts.teacher_logps_BT, rollouts.teacher_ok_B = module.teachers.score(rollouts, **options)
        else:
            itself_BT = rollouts.student_logps_BT if reference_BT is None else reference_BT
            rollouts.teacher_logps_BT = itself_BT.clone()
            rollouts.teacher_ok_B = torch.ones_like(rollouts.keep_B)
    with module.timed("wait"):
        wait_for_ranks(module)
    if module.teachers:
        check_failures(module, rollouts, module.teachers.failures, limit=module.max_teacher_failures)
    return reference_BT
