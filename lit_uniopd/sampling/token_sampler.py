"""Sampling tokens: uniform numbers that do not depend on how rows are batched, and the inversion of a distribution.

Extra shape letters: R rows being decoded, K candidates.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_uniopd.utils.seeding import derive_seed


class CounterRNG:
    """One number in [0, 1) per (answer, step), the same for any batching of the rows and any number of ranks.

    A counter-based generator: the SplitMix64 finaliser (Steele et al. 2014) of seed, key, answer and step, with no
    state to keep or advance.

    Args:
        seed: of the call.
        keys_B: int64, one key per row (of its prompt).
        answer_B: number of the answer to its prompt.
    """

    def __init__(self, seed: int, keys_B: Tensor, answer_B: Tensor) -> None:
        self.start_B = _mix(_mix(keys_B + _signed(derive_seed(seed, "sampling"))) + answer_B * _GOLDEN)

    def __call__(self, step: int, rows_R: Tensor) -> Tensor:
        bits_R = _mix(self.start_B[rows_R] + _signed((step + 1) * _GOLDEN))
        dtype = torch.float32 if bits_R.device.type == "mps" else torch.float64
        precision = 24 if dtype == torch.float32 else 53
        return _shift_right(bits_R, 64 - precision).to(dtype) / 2**precision


def _signed(value: int) -> int:
    """The int64 with the same bits."""
    return (value + 2**63) % 2**64 - 2**63


_GOLDEN, _FIRST, _SECOND = (_signed(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """Logical right shift; torch's ``>>`` keeps the sign."""
    return (bits >> by) & (2 ** (64 - by) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * _FIRST
    bits = (bits ^ _shift_right(bits, 27)) * _SECOND
    return bits ^ _shift_right(bits, 31)


def sample_token(
    logits_RV: Tensor, uniform_R: Tensor, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor]:
    """Sample one token per row by inverting the cumulative distribution.

    Args:
        logits_RV: float32; overwritten.
        uniform_R: Numbers in [0, 1); unused when greedy.
        temperature: 0 takes the most probable token.
        top_k: Only the ``k`` most probable tokens, ties with the last included; 0 for all.
        top_p: Of those, the fewest whose mass reaches ``top_p``, ties with the last included.

    Returns:
        Token ids, and their log-probs under the whole softmax at the temperature (at 1 when greedy).
    """
    if temperature == 0:
        top = logits_RV.max(dim=-1)
        return top.indices, top.values - logits_RV.logsumexp(dim=-1)
    probs_RV = torch.softmax(logits_RV if temperature == 1 else logits_RV.div_(temperature), dim=-1)
    allowed_RV = probs_RV
    if top_k or top_p < 1:
        allowed_RV = probs_RV.masked_fill(probs_RV < _threshold(probs_RV, top_k, top_p), 0)
    tokens_R = invert_cdf(allowed_RV, uniform_R)
    return tokens_R, probs_RV.gather(1, tokens_R[:, None])[:, 0].log()


def _threshold(probs_RV: Tensor, top_k: int, top_p: float) -> Tensor:
    """The smallest probability ``[R, 1]`` that may still be sampled."""
    vocabulary = probs_RV.shape[1]
    # A nucleus rarely holds more tokens than this; the whole vocabulary is sorted only for one that does.
    ranked_RK = probs_RV.topk(min(top_k or 1024, vocabulary)).values
    if not top_k and bool((ranked_RK.sum(dim=-1) < top_p).any()):
        ranked_RK = probs_RV.sort(dim=-1, descending=True).values
    total_R1 = ranked_RK.sum(dim=-1, keepdim=True) if top_k else 1.0
    before_RK = ranked_RK.cumsum(dim=-1) - ranked_RK
    last_R1 = (before_RK < top_p * total_R1).sum(dim=-1, keepdim=True) - 1
    return ranked_RK.gather(1, last_R1 if top_p < 1 else torch.full_like(last_R1, ranked_RK.shape[1] - 1))


BUCKET = 128
"""Tokens added up at once: sums are much faster than a cumulative sum over the vocabulary, and more exact."""


def invert_cdf(weights_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """The first token whose cumulative weight exceeds ``uniform * total``; never one of weight zero.

    Args:
        weights_RV: Not negative, not all zero; they need not sum to one.
        uniform_R: In [0, 1); its dtype is the precision of the sums.
    """
    padding = -weights_RV.shape[1] % BUCKET
    buckets_RKS = (F.pad(weights_RV, (0, padding)) if padding else weights_RV).unflatten(1, (-1, BUCKET))
    sums_RK = buckets_RKS.sum(dim=-1).to(uniform_R.dtype)
    bucket_R, remainder_R = _first_above(sums_RK, uniform_R * sums_RK.sum(dim=-1))
    inside_RS = buckets_RKS[torch.arange(len(bucket_R), device=bucket_R.device), bucket_R].to(uniform_R.dtype)
    return bucket_R * BUCKET + _first_above(inside_RS, remainder_R)[0]


def _first_above(weights_RK: Tensor, target_R: Tensor) -> tuple[Tensor, Tensor]:
    """The first index whose cumulative weight exceeds the target, and how far into it the target lies.

    Rounding may put the target beyond the last sum, or let sums of zeros rise, so the weights are checked as well.
    """
    sums_RK = weights_RK.cumsum(dim=-1)
    positive_RK = weights_RK > 0
    index_K = torch.arange(weights_RK.shape[1], device=weights_RK.device)
    first_R = torch.where(positive_RK & (sums_RK > target_R[:, None]), index_K, len(index_K)).amin(dim=-1)
    last_R = torch.where(positive_RK, index_K, 0).amax(dim=-1)
    index_R = torch.minimum(first_R, last_R)
    before_RK = (sums_RK - weights_RK).gather(1, index_R[:, None])
    return index_R, target_R - before_RK[:, 0]
