"""Who writes the rollouts, where `engine: auto` leaves it open."""

from dataclasses import replace

from lit_uniopd.policy.policy import Policy
from lit_uniopd.sampling.args import ColocateArgs, SamplingArgs
from lit_uniopd.sampling.engines import settled


def rollout_sampling(sampling: SamplingArgs, policy: Policy, writer: str) -> SamplingArgs:
    """The options of a rollout, with an engine in the place of ``auto``: what a step computes depends on it.

    Args:
        sampling: as the user has said; checkpoints record that, and not what a machine made of it.
        policy: the student, loaded.
        writer: teachers write by the loop, since they come and go on the device.
    """
    if writer == "student":
        return settled(sampling, policy.model, policy.processor)
    return replace(sampling, engine="loop", colocate=ColocateArgs()) if sampling.engine == "auto" else sampling
