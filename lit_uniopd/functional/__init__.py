"""Formulas: tensors in, tensors out. Nothing here knows a model, a trainer or a file."""

from lit_uniopd.functional.balance import balance_outcomes, difficulty_repeats
from lit_uniopd.functional.logps import divergence, linear_token_logps, sequence_logps, token_logps, topk_mass
from lit_uniopd.functional.margin import (
    MarginResult,
    OrderReport,
    margin_mask,
    margin_shift,
    order_consistency,
    trajectory_returns,
)
from lit_uniopd.functional.opd import OPDLoss, extrapolated_advantages, opd_advantages, opd_loss

__all__ = [
    "MarginResult",
    "OPDLoss",
    "OrderReport",
    "balance_outcomes",
    "difficulty_repeats",
    "divergence",
    "extrapolated_advantages",
    "linear_token_logps",
    "margin_mask",
    "margin_shift",
    "opd_advantages",
    "opd_loss",
    "order_consistency",
    "sequence_logps",
    "token_logps",
    "topk_mass",
    "trajectory_returns",
]
