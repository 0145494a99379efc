"""Omni-DPO: pairs weighted by their quality and by how far the policy has mastered them (arXiv 2506.10054)."""

from typing import Any

from lit_uniopd.modules.preference.base import PreferenceModule
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.policy.args import PolicyArgs


class OmniDPO(PreferenceModule):
    """Preference learning in which each pair counts by its quality and by how little the policy has mastered it.

    ``PreferenceDataModule`` computes the quality weights from the pairs' scores.

    Args:
        policy: the model to train; as it is before training, it is the reference.
        loss: Omni-DPO; by ``loss.kind`` any of the losses that it is compared with.
        options: those of ``PreferenceModule``.
    """

    def __init__(
        self,
        policy: PolicyArgs,
        loss: PairLossArgs = PairLossArgs(),  # noqa: B008  # never mutated; an instance is what --help can show
        **options: Any,
    ) -> None:
        super().__init__(policy, loss, **options)
