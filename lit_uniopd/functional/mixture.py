"""Several teachers as one: the mixture of their next-token distributions."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lit_uniopd.functional.divergence_tiles import Kind, Spec, WholeTeacher, chunk_logits, compare_chunks
from lit_uniopd.functional.projection import Projection, check_positive, chunks, math_dtype

MixtureKind = Literal["arithmetic", "log_linear"]
"""``sum_k w_k p_k``, or ``prod_k p_k ** w_k`` divided by its sum over the vocabulary (a product of experts)."""

CHUNK_TOKENS = 256
"""Tokens per chunk; about four tiles of ``[chunk, V]`` live at once, and one more for each teacher."""


def mixture_logps(logps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log-probs ``log sum_k w_k p_k`` of an arithmetic mixture, token by token.

    It holds for a sampled token alone as for the whole vocabulary: nothing has to be divided by a sum. That of one
    distribution is that distribution bit for bit.

    Args:
        logps: of each distribution, all of one shape.
        weights: of each, positive and 1 together.

    Raises:
        ValueError: if there are none, or the weights do not fit.

    Example:
        >>> mixture_logps([torch.tensor([0.5]).log(), torch.tensor([0.1]).log()], [0.25, 0.75]).exp()
        tensor([0.2000])
    """
    if len(logps) != len(weights):
        raise ValueError(f"{len(logps)} distributions and {len(weights)} weights; need as many")
    _check_weights(weights)
    if len(logps) == 1:
        return logps[0]
    terms = [logp + math.log(weight) for logp, weight in zip(logps, weights, strict=True)]
    return torch.stack(terms).logsumexp(dim=0)


def log_linear_logps(logps: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """Log-probs ``sum_k w_k log p_k - log Z`` of a log-linear mixture, ``Z`` being the sum over the vocabulary.

    Also called a logarithmic opinion pool, or a product of experts (Hinton 2002, with weights as in Heskes 1998). Each
    distribution may lack any constant of a position: logits do as well as log-probs. That of one distribution is what
    was given for it, bit for bit.

    Args:
        logps: ``[..., V]`` of each distribution, over the same vocabulary; may be made one by one.
        weights: of each, positive and 1 together.

    Raises:
        ValueError: if there are none, or the weights do not fit.

    Example:
        >>> log_linear_logps([torch.tensor([0.5, 0.5]).log(), torch.tensor([0.1, 0.9]).log()], [0.5, 0.5]).exp()
        tensor([0.2500, 0.7500])
    """
    _check_weights(weights)
    if len(weights) == 1:
        (only,) = logps
        return only
    pairs = zip(logps, weights, strict=True)
    first, weight = next(pairs)
    total = first * weight
    for logp, weight in pairs:
        total.add_(logp, alpha=weight)
    return total.log_softmax(dim=-1)


def _check_weights(weights: Sequence[float]) -> None:
    """Raise a ``ValueError`` unless they are a distribution."""
    if not weights:
        raise ValueError("no weights; need one at least")
    if min(weights) <= 0 or abs(math.fsum(weights) - 1) > 1e-6:
        raise ValueError(f"weights must be positive and 1 together, got {list(weights)}")


@torch.no_grad()
def log_linear_token_logps(
    hidden: Sequence[Tensor],
    heads: Sequence[Projection],
    weights: Sequence[float],
    tokens_N: Tensor,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """Log-probs ``[N]`` (float32 or better) of some tokens under a log-linear mixture, exact over the vocabulary that
    all have; the heads' temperature divides the logits before they are mixed.

    Args:
        hidden: ``[N, H_k]`` last hidden states of each distribution at the positions that predict the tokens, on any
            device.
        heads: output projections, on the device of the result.
        weights: of each distribution, positive and 1 together.
        tokens_N: ids.
        chunk_tokens: tokens whose logits exist at once.

    Example:
        >>> heads = [Projection(torch.tensor(probs)[:, None].log()) for probs in ([0.5, 0.5], [0.1, 0.9])]
        >>> log_linear_token_logps([torch.ones(1, 1)] * 2, heads, [0.5, 0.5], torch.tensor([1])).exp()
        tensor([0.7500])
    """
    check_positive(chunk_tokens=chunk_tokens)
    common = min(len(head.weight_VH) for head in heads)
    cut = [head.leading(common) for head in heads]
    dtype, device = math_dtype(*(head.weight_VH for head in cut)), cut[0].weight_VH.device
    tokens_N1 = tokens_N.to(device)[:, None]
    values = [torch.empty(0, dtype=dtype, device=device)]
    with torch.autocast(device.type, enabled=False):
        for chunk in chunks(len(tokens_N), chunk_tokens):
            logits = (
                chunk_logits(head, h[chunk].to(head.weight_VH), dtype) for head, h in zip(cut, hidden, strict=True)
            )
            # One distribution's logits are no log-probs yet.
            logps = log_linear_logps(logits, weights).log_softmax(dim=1)
            values.append(logps.gather(1, tokens_N1[chunk])[:, 0])
    return torch.cat(values)


@dataclass(frozen=True, slots=True)
class MixtureTerm:
    """One teacher of a mixture, at the positions of some tokens."""

    hidden_BTH: Tensor
    """Last hidden states at the positions that predict the tokens."""
    weight_VH: Tensor
    """Output projection."""
    share: float
    """In the mixture; all of them are 1."""
    bias_V: Tensor | None = None
    softcap: float | None = None


def mixture_divergence(
    student_hidden: Tensor,
    student_weight: Tensor,
    teachers: Sequence[MixtureTerm],
    mask_BT: Tensor,
    *,
    mixture_kind: MixtureKind = "arithmetic",
    kind: Kind = "reverse",
    beta: float = 0.5,
    top_k: int | None = None,
    entry_clip: float | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
    student_bias: Tensor | None = None,
    student_softcap: float | None = None,
) -> Tensor:
    """``divergence`` of the student and a mixture of teachers, over the vocabulary that all of them share.

    Every distribution is renormalised over the leading ids that all have, and is at the temperature before it is mixed.

    Args:
        student_hidden: ``[B, T, H_s]`` last hidden states at the positions that predict the tokens.
        student_weight: ``[V_s, H_s]`` output projection.
        teachers: at the same positions; constants.
        mask_BT: True where to compute the divergence; other positions are never read, whatever stands there.
        mixture_kind: how the teachers are mixed.
        kind: see ``divergence``, as for the other options.
        beta: share of the teachers in the mixture of ``jsd``.
        top_k: compare only the k likeliest tokens, and all others as one bucket.
        entry_clip: most nats that one entry of the vocabulary adds.
        temperature: divides all (capped) logits.
        chunk_tokens: tokens whose logits exist at once.
        student_bias: bias of the projection.
        student_softcap: Gemma 2's logit cap.

    Returns:
        ``[B, T]`` in nats, float32 or better; 0 outside the mask.

    Raises:
        ValueError: if shapes do not fit or an option is out of range.

    Example:
        >>> hidden, mask_BT = torch.ones(1, 1, 1), torch.tensor([[True]])
        >>> heads = [torch.tensor(probs)[:, None].log() for probs in ([0.5, 0.5], [0.1, 0.9], [0.4, 0.6])]
        >>> teachers = [MixtureTerm(hidden, head, 0.5) for head in heads[1:]]
        >>> mixture_divergence(hidden, heads[0], teachers, mask_BT)  # from 0.25 and 0.75
        tensor([[0.1438]])
    """
    check_positive(chunk_tokens=chunk_tokens)
    student = Projection(student_weight, student_bias, student_softcap, temperature)
    heads = [Projection(term.weight_VH, term.bias_V, term.softcap, temperature) for term in teachers]
    student.check(student_hidden, "student_", mask_BT)
    for head, term in zip(heads, teachers, strict=True):
        head.check(term.hidden_BTH, "teacher_", mask_BT)
    mask, common = mask_BT.bool(), min(len(head.weight_VH) for head in (student, *heads))
    student = student.leading(common)
    constants: list[Tensor | None] = []
    with torch.no_grad():
        for head, term in zip(heads, teachers, strict=True):
            cut = head.leading(common)
            constants += [term.hidden_BTH[mask].to(cut.weight_VH.dtype), cut.weight_VH, cut.bias_V]
    mixture = _MixedTeacher(
        tuple(WholeTeacher(head.softcap, temperature) for head in heads),
        tuple(term.share for term in teachers),
        mixture_kind,
    )
    spec = Spec.checked(kind, beta, top_k, common, entry_clip)
    hidden = student_hidden[mask].to(student.weight_VH.dtype)
    return compare_chunks(hidden, student, mixture, constants, spec, mask, chunk_tokens)


@dataclass(frozen=True, slots=True)
class _MixedTeacher:
    teachers: tuple[WholeTeacher, ...]
    shares: tuple[float, ...]
    kind: MixtureKind

    def log_q(self, constants: Sequence[Any], chunk: slice, log_p: Tensor) -> Tensor:
        """Log-probs ``[N, V]``, from hidden states, weight and bias of one teacher after the other."""
        parts = (t.log_q(constants[3 * i : 3 * i + 3], chunk, log_p) for i, t in enumerate(self.teachers))
        if self.kind == "log_linear":
            return log_linear_logps(parts, self.shares)
        return mixture_logps(list(parts), self.shares)
