"""How far an engine with kernels of its own is from the student as the trainer computes it."""

from lightning import LightningModule

from lit_uniopd.distributed.collectives import sum_over_ranks
from lit_uniopd.errors import UserError
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.types import Rollouts

DRIFTS = (0.1, 1.0)
"""Nats between trainer and sampler at which a token counts as drifted, and as badly drifted."""


def add_engine_drift(averages: WeightedMeans, rollouts: Rollouts) -> float:
    """How far the log-probs that an engine drew with are from those that the trainer computes for the same tokens.

    Adds their mean distance in nats, the shares of tokens further apart than ``DRIFTS``, and the KL divergence of the
    student from the sampler (the estimate ``r - 1 - log r`` with ``r = pi / mu``, never negative and of low variance).

    Returns:
        The largest distance.
    """
    log_ratio_BT = (rollouts.student_logps_BT - rollouts.sampler_logps_BT).double() * rollouts.mask_BT
    drift_BT, tokens = log_ratio_BT.abs(), rollouts.mask_BT.sum()
    averages.add("rollout/engine_drift", drift_BT.sum(), tokens)
    averages.add("rollout/engine_kl", (log_ratio_BT.expm1() - log_ratio_BT).sum(), tokens)
    for limit in DRIFTS:
        averages.add(f"rollout/engine_drift_above_{limit:g}", (drift_BT > limit).sum(), tokens)
    return float(drift_BT.max())


def check_drift(module: LightningModule, rollouts: Rollouts, sampling: SamplingArgs) -> None:
    """Stop when vLLM samples from something else than the student.

    Raises:
        UserError: naming how far their log-probs are off.
    """
    limit = sampling.max_drift
    if limit is None:
        return
    drift_BT = (rollouts.student_logps_BT - rollouts.sampler_logps_BT).abs() * rollouts.mask_BT
    drift = sum_over_ranks(module, float(drift_BT.sum())) / sum_over_ranks(module, int(rollouts.mask_BT.sum()))
    if drift <= limit:
        return
    if sampling.server is None:
        raise UserError(
            f"vLLM's log-probs are {drift:.2f} nats from the student's on average, more than "
            f"--model.sampling.colocate.max_drift {limit}: it runs this model otherwise; set --model.sampling.engine "
            "loop, or raise the limit."
        )
    if sampling.lag:
        raise UserError(
            f"The log-probs of those who wrote are {drift:.2f} nats from the student's on average, more than "
            f"--model.sampling.server.max_drift {limit}: a rollout's updates change it by too much for answers that "
            "are a rollout old; lower the learning rate, set --model.sampling.lag 0, or raise the limit."
        )
    raise UserError(
        f"The servers' log-probs are {drift:.2f} nats from the student's on average, more than "
        f"--model.sampling.server.max_drift {limit}: they have other weights, or were started without "
        "--logprobs-mode processed_logprobs; mend that, or raise the limit."
    )
