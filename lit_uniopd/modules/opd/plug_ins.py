"""The hook of on-policy distillation."""

from typing import Any

from lit_uniopd.types import Rollouts


def call_plug_ins(module: Any, rollouts: Rollouts) -> None:
    """Call ``on_rollouts_scored`` of the datamodule, then of every callback in order, where they have it.

    Args:
        module: ``UniOPD`` in training.
        rollouts: graded and scored; they may change ``keep_B`` and ``advantages_BT`` in place.
    """
    for plug_in in (module.trainer_data.datamodule, *module.trainer.callbacks):
        hook = getattr(plug_in, "on_rollouts_scored", None)
        if hook is not None:
            hook(module.trainer, module, rollouts)
