"""What a token's advantage is compared with: its mean over all tokens that the student could have drawn there."""

from typing import Any

import torch
from torch import Tensor

from lit_uniopd.modules.opd.losses import LossArgs, token_divergences
from lit_uniopd.modules.opd.scoring import micro_rollouts, update_batches
from lit_uniopd.types import Rollouts


@torch.no_grad()
def teacher_baseline(module: Any, rollouts: Rollouts) -> Tensor | None:
    """Mean of ``log p_T - log p_S`` over the student's distribution at each token, ``-KL(S || T)``, ``[B, T]``.

    It depends on what was written before a token and not on the token, so subtracting it leaves the expected gradient
    as it is (vOPD, arXiv 2605.07865). A collective call.

    Args:
        module: ``UniOPD`` in training; its ``advantage.baseline`` says over how many tokens.
        rollouts: this rank's answers.

    Returns:
        None, where there is none to be.
    """
    if module.advantage.baseline == "none":
        return None
    args = LossArgs(kind="topk" if module.advantage.baseline == "topk" else "reverse_kl", top_k=module.loss.top_k)
    baseline_BT = torch.zeros_like(rollouts.student_logps_BT)
    rows = list(range(len(rollouts)))
    batches = update_batches(module, module.policy, rollouts, rows, module.micro_batch_tokens, module.teachers)
    with module.policy.answering():
        for name, batch in batches:
            micro = micro_rollouts(rollouts, batch, args.kind)
            passes = module.teachers.passes(name, micro.prompts)
            kl_BT = token_divergences(module.policy, passes, micro, args, module.temperature)
            if batch:
                baseline_BT[batch, : kl_BT.shape[1]] = -kl_BT.to(baseline_BT)
    module.teachers.rest()
    return baseline_BT
