"""The trained policy as a Hugging Face directory."""

import logging
from pathlib import Path

from lightning import Callback, Trainer

from lit_uniopd.cli.export import restored
from lit_uniopd.distributed.sharding import is_sharded, trained_state
from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.utils.run_directory import run_directory

log = logging.getLogger(__name__)


class PolicyExport(Callback):
    """Write the policy for `from_pretrained` and vLLM when training ends: merged, and the adapter beside it under LoRA.

    Args:
        directory: null: `export/` in the run's directory. The merged model goes to `policy/` in it, an adapter to
            `adapter/`.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory

    def on_train_end(self, trainer: Trainer, pl_module: PolicyModule) -> None:  # type: ignore[override]
        # On all ranks: gathering the weights is a collective call. Rank 0 writes.
        root = Path(self.directory or run_directory(trainer) / "export")
        policy = pl_module.policy
        gathered = trained_state(policy, keep=trainer.is_global_zero) if is_sharded(policy) else {}
        if not trainer.is_global_zero:
            return
        if gathered:
            policy = restored(policy.args, gathered, pl_module.policy_flag)
        if policy.args.lora is not None:
            policy.save_adapter(root / "adapter")
            log.info("The adapter is in %s.", root / "adapter")
        if policy.args.quantization == "none":
            policy.save(root / "policy")
            log.info("The trained policy is in %s.", root / "policy")
        else:
            log.warning("The base is quantised, so only the adapter was written: it cannot be merged.")
