"""DPO, the baseline of the preference papers (arXiv 2305.18290)."""

from typing import Any

from lit_uniopd.modules.preference.base import PreferenceModule
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.policy.args import PolicyArgs


class DPO(PreferenceModule):
    """Direct preference optimisation: every pair counts alike, scores are not needed.

    Args:
        policy: the model to train; as it is before training, it is the reference.
        loss: DPO; by ``loss.kind`` one of its relatives (`ipo`, `simpo`, `orpo`, `kto_pair` ...).
        options: those of ``PreferenceModule``.
    """

    def __init__(
        self,
        policy: PolicyArgs,
        loss: PairLossArgs = PairLossArgs(kind="dpo", beta=0.1),  # noqa: B008  # never mutated
        **options: Any,
    ) -> None:
        super().__init__(policy, loss, **options)
