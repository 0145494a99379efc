"""DPO, the baseline of the preference papers (arXiv 2305.18290)."""

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from lit_uniopd.modules.base import default_optimizer
from lit_uniopd.modules.preference.base import PreferenceModule
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.policy.args import PolicyArgs


class DPO(PreferenceModule):
    """Direct preference optimisation: every pair counts alike, scores are not needed.

    Args:
        policy: the model to train; as it is before training, it is the reference.
        loss: DPO; by ``loss.kind`` one of its relatives (`ipo`, `simpo`, `orpo`, `kto_pair` ...).
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
        loss: PairLossArgs = PairLossArgs(kind="dpo", beta=0.1),  # noqa: B008  # never mutated; an instance is what --help can show
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        reference_cache: str | None = None,
        seed: int | None = None,
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__(policy, loss, optimizer, lr_scheduler, reference_cache, seed, gradient_clip)
