"""Formulas: tensors in, tensors out. Nothing here knows a model, a trainer or a file.

The examples in their docstrings need ``import torch`` and the function itself; the tests run them.
"""

from lit_uniopd.functional.alignment import align_chunks, share_log_probs
from lit_uniopd.functional.balance import balance_outcomes, difficulty_repeats
from lit_uniopd.functional.grouped_returns import trajectory_returns
from lit_uniopd.functional.logps import (
    divergence,
    linear_token_logps,
    sequence_logps,
    token_logps,
    topk_forward_kl,
    topk_mass,
)
from lit_uniopd.functional.margin import MarginResult, margin_discard, margin_mask, margin_shift
from lit_uniopd.functional.mixture import (
    MixtureTerm,
    log_linear_logps,
    log_linear_token_logps,
    mixture_divergence,
    mixture_logps,
)
from lit_uniopd.functional.opd import OPDLoss, extrapolated_advantages, opd_advantages, opd_loss
from lit_uniopd.functional.order import OrderReport, order_consistency
from lit_uniopd.functional.preference import (
    PreferenceLoss,
    dpo_loss,
    dpop_loss,
    hinge_loss,
    ipo_loss,
    kto_pair_loss,
    omni_dpo_loss,
    orpo_loss,
    quality_weights,
    robust_dpo_loss,
    simpo_loss,
)

__all__ = [
    "MarginResult",
    "MixtureTerm",
    "OPDLoss",
    "OrderReport",
    "PreferenceLoss",
    "align_chunks",
    "balance_outcomes",
    "difficulty_repeats",
    "divergence",
    "dpo_loss",
    "dpop_loss",
    "extrapolated_advantages",
    "hinge_loss",
    "ipo_loss",
    "kto_pair_loss",
    "linear_token_logps",
    "log_linear_logps",
    "log_linear_token_logps",
    "margin_discard",
    "margin_mask",
    "margin_shift",
    "mixture_divergence",
    "mixture_logps",
    "omni_dpo_loss",
    "opd_advantages",
    "opd_loss",
    "order_consistency",
    "orpo_loss",
    "quality_weights",
    "robust_dpo_loss",
    "sequence_logps",
    "share_log_probs",
    "simpo_loss",
    "token_logps",
    "topk_forward_kl",
    "topk_mass",
    "trajectory_returns",
]
