"""Omni-DPO: pairs weighted by their quality and by how far the policy has mastered them (arXiv 2506.10054)."""

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from lit_uniopd.modules.base import default_optimizer
from lit_uniopd.modules.preference.base import PreferenceModule
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.policy.args import PolicyArgs


class OmniDPO(PreferenceModule):
    """Preference learning in which each pair counts by its quality and by how little the policy has mastered it.

    ``PreferenceDataModule`` computes the quality weights from the pairs' scores.

    Args:
        policy: the model to train; as it is before training, it is the reference.
        loss: Omni-DPO; by ``loss.kind`` any of the losses that it is compared with.
        optimizer: from parameters to an optimizer; write out every argument.
        lr_scheduler: from an optimizer to a schedule, stepped once per optimizer step; null: constant.
        reference_cache: folder for the reference's log-probs. They are computed before the first step, kept there, and
            found again by later runs with the same weights and pairs; no copy of the policy is held. Null: they are
            computed at every step.
        seed: of dropout; null: that of `--seed_everything`, else 0.
        gradient_clip: largest norm of the gradient; null: no clipping.
    """

    def __init__(
        self,
        policy: PolicyArgs,
        loss: PairLossArgs = PairLossArgs(),  # noqa: B008  # never mutated; an instance is what --help can show
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        reference_cache: str | None = None,
        seed: int | None = None,
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__(policy, loss, optimizer, lr_scheduler, reference_cache, seed, gradient_clip)
