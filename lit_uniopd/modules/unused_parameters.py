"""Parts of a vision tower that no picture of a step has reached."""

import torch
from lightning import LightningModule

from lit_uniopd.policy.multimodal import tower_parameters
from lit_uniopd.policy.policy import Policy


def drop_unused_gradients(module: LightningModule, policy: Policy) -> None:
    """Take the gradients of 0 from the parts of a vision tower that no rank's pictures have reached in this step.

    One process has none there, and an optimizer does not touch what has none: else weights that are never used would
    decay, and those that are seldom used go on by their momentum.

    Args:
        module: being trained; all gradients of the step are there.
        policy: of the module.
    """
    if module.trainer.world_size == 1:
        return
    tower = tower_parameters(policy.model)
    if not tower:
        return
    reached = torch.tensor([float(name in policy.reached) for name in tower], device=module.device)
    policy.reached.clear()
    reached = module.trainer.strategy.reduce(reached, reduce_op="max")
    for parameter, was_reached in zip(tower.values(), reached, strict=True):
        if not was_reached:
            parameter.grad = None
