"""How two tiles of log-probs are compared, and the autograd function that walks over them.

See ``divergence`` for the formulas.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lit_uniopd.functional.projection import Projection, add_matmul, check_positive, chunks, math_dtype

Kind = Literal["reverse", "forward", "jsd"]

LEAST = 1e-30
"""Of a probability that is a difference, which rounding may put below 0."""


@dataclass(frozen=True, slots=True)
class Spec:
    """Which divergence, on which tokens. ``jsd`` at the ends of ``beta`` has become the KL it equals."""

    kind: Kind
    beta: float
    top_k: int | None
    entry_clip: float | None = None

    @classmethod
    def checked(
        cls, kind: str, beta: float, top_k: int | None, vocabulary: int, entry_clip: float | None = None
    ) -> "Spec":
        if kind not in ("reverse", "forward", "jsd"):
            raise ValueError(f"kind must be 'reverse', 'forward' or 'jsd', got {kind!r}")
        if not 0.0 <= beta <= 1.0:
            raise ValueError(f"beta must be in [0, 1], got {beta}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}; None means the whole vocabulary")
        if entry_clip is not None:
            check_positive(entry_clip=entry_clip)
            if top_k is not None:
                raise ValueError("entry_clip limits tokens, and top_k has a bucket of them; give one of the two")
        if kind == "jsd" and beta in (0.0, 1.0):
            kind = "reverse" if beta == 1.0 else "forward"
        return cls(kind, beta, top_k if top_k is not None and top_k < vocabulary else None, entry_clip)


def chunk_logits(head: Projection, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """All logits ``[N, V]`` of some hidden states."""
    return head.fill(hidden.new_empty(len(hidden), len(head.weight_VH), dtype=dtype), hidden)


def top_support(log_p: Tensor, log_q: Tensor, spec: Spec) -> Tensor:
    """The tokens that top-k compares one by one, bool ``[N, V]``."""
    assert spec.top_k is not None
    support = torch.zeros_like(log_p, dtype=torch.bool)
    for kind, scores in (("reverse", log_p), ("forward", log_q)):
        if spec.kind in (kind, "jsd"):
            support.scatter_(1, scores.topk(spec.top_k, dim=1).indices, True)
    return support


def _merge_tail(log_p: Tensor, log_q: Tensor, spec: Spec) -> Tensor:
    support = top_support(log_p, log_q, spec)
    return _share_tail(log_p, log_q, support, _outside(log_q, support))


def _outside(logps: Tensor, support: Tensor) -> Tensor:
    """Log-prob ``[N, 1]`` of all tokens outside the support."""
    return logps.masked_fill(support, -torch.inf).logsumexp(dim=1, keepdim=True)


def _share_tail(log_p: Tensor, log_q: Tensor, support: Tensor, q_tail: Tensor) -> Tensor:
    """The teacher with its tail shared out like the student's: see ``divergence``."""
    # A union of two supports may leave no tail at all; then `where` takes nothing from its second branch.
    return torch.where(support, log_q, log_p + (q_tail - _outside(log_p, support)))


class TileTeacher(Protocol):
    """What makes the teacher's tile."""

    def log_q(self, constants: Sequence[Any], chunk: slice, log_p: Tensor) -> Tensor:
        """Log-probs ``[N, V]`` of a chunk."""
        ...


@dataclass(frozen=True, slots=True)
class WholeTeacher:
    """A teacher whose hidden states and head are here."""

    softcap: float | None
    temperature: float

    def log_q(self, constants: Sequence[Any], chunk: slice, log_p: Tensor) -> Tensor:
        """Log-probs ``[N, V]``, from the hidden states, weight and bias of the teacher."""
        hidden, weight, bias = constants
        return chunk_logits(
            Projection(weight, bias, self.softcap, self.temperature), hidden[chunk], log_p.dtype
        ).log_softmax(1)


@dataclass(frozen=True, slots=True)
class NamedTeacher:
    """A teacher that names its top tokens."""

    def log_q(self, constants: Sequence[Any], chunk: slice, log_p: Tensor) -> Tensor:
        """Log-probs ``[N, V]``, from ids and float64 log-probs of the top tokens."""
        ids, logps = (constant[chunk] for constant in constants)
        vocabulary = log_p.shape[1]
        known = (ids >= 0) & (ids < vocabulary)
        q = logps.exp()
        shared = (1.0 - q.masked_fill(known, 0.0).sum(dim=1, keepdim=True)).clamp(min=LEAST)
        q_tail = (1.0 - q.sum(dim=1, keepdim=True)).clamp(min=LEAST)
        # What has no probability keeps a finite log-prob: 0 times infinity would be no number.
        kept = (logps - shared.log()).clamp(min=torch.finfo(log_p.dtype).min / 2).to(log_p.dtype)
        # One column more takes what the student does not have.
        table = log_p.new_full((len(log_p), vocabulary + 1), -torch.inf)
        log_q = table.scatter_(1, ids.where(known, vocabulary), kept)[:, :vocabulary]
        return _share_tail(log_p, log_q, log_q > -torch.inf, (q_tail / shared).log().to(log_p.dtype))


def _mixture_gap(gap: Tensor, beta: float) -> Tensor:
    """``log m / p`` from ``gap = log q / p``: exactly 0 where they agree, and finite for any gap."""
    weight = (gap > 0).to(gap.dtype).mul_(1.0 - 2.0 * beta).add_(beta)
    return gap.abs().neg_().expm1_().mul_(weight).log1p_().add_(gap.clamp(min=0.0))


def _compare(log_p: Tensor, log_q: Tensor, spec: Spec, with_grad: bool) -> tuple[Tensor, Tensor]:
    """Divergence ``[N]`` and its gradient ``[N, V]`` by the student's final logits (empty without ``with_grad``)."""
    if spec.entry_clip is not None:
        return _compare_clipped(log_p, log_q, spec, spec.entry_clip)
    if spec.top_k is not None:
        log_q = _merge_tail(log_p, log_q, spec)
    gap = log_q - log_p
    p = log_p.exp()
    none = gap.new_empty(0)
    if spec.kind == "forward":
        q = log_q.exp()
        value = gap.mul_(q).sum(dim=1)
        return value, p.sub_(q) if with_grad else none
    if spec.kind == "reverse":
        value = gap.mul(p).sum(dim=1).neg_()
        return value, gap.add_(value[:, None]).neg_().mul_(p) if with_grad else none
    to_mixture = _mixture_gap(gap, spec.beta)
    p_term = to_mixture.mul(p).sum(dim=1).neg_()
    q_term = gap.sub_(to_mixture).mul_(log_q.exp()).sum(dim=1)
    value = spec.beta * q_term + (1.0 - spec.beta) * p_term
    return value, to_mixture.add_(p_term[:, None]).mul_(p).mul_(spec.beta - 1.0) if with_grad else none


def _compare_clipped(log_p: Tensor, log_q: Tensor, spec: Spec, limit: float) -> tuple[Tensor, Tensor]:
    """``sum_v min(d_v, limit)`` over the entries ``d_v`` of the divergence, and its gradient.

    With ``h_v`` the derivative of ``d_v`` by ``p_v``, and the sum over entries below the limit, the gradient by a logit
    is ``p_j h_j [d_j < limit] - p_j sum_v p_v h_v``.
    """
    p, q, gap = log_p.exp(), log_q.exp(), log_q - log_p
    if spec.kind == "forward":
        entries, slopes = q * gap, -q  # slopes: p_v h_v
    elif spec.kind == "reverse":
        entries, slopes = -p * gap, p * (1.0 - gap)
    else:
        to_mixture = _mixture_gap(gap.clone(), spec.beta)
        entries = spec.beta * q * (gap - to_mixture) - (1.0 - spec.beta) * p * to_mixture
        slopes = (spec.beta - 1.0) * p * to_mixture
    below = entries < limit
    slopes = slopes.masked_fill(~below, 0.0)
    return entries.clamp(max=limit).sum(dim=1), slopes - p * slopes.sum(dim=1, keepdim=True)


def compare_chunks(
    p_hidden: Tensor,
    student: Projection,
    teacher: TileTeacher,
    constants: Sequence[Tensor | None],
    spec: Spec,
    mask: Tensor,
    chunk_tokens: int,
) -> Tensor:
    """Divergences ``[B, T]`` from the hidden states under the mask."""
    with torch.autocast(p_hidden.device.type, enabled=False):
        values = _Divergence.apply(
            p_hidden, student.weight_VH, student.bias_V, student, teacher, spec, chunk_tokens, *constants
        )
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


class _Divergence(Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        p_hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        student: Projection,
        teacher: TileTeacher,
        spec: Spec,
        chunk_tokens: int,
        *constants: Tensor | None,
    ) -> Tensor:
        trained = any(ctx.needs_input_grad[1:3])
        ctx.frozen = ctx.needs_input_grad[0] and not trained
        slope = torch.empty_like(p_hidden) if ctx.frozen else p_hidden.new_empty(0)
        values = [p_hidden.new_empty(0, dtype=math_dtype(weight))]
        for chunk in chunks(len(p_hidden), chunk_tokens):
            value, grad = _chunk(student, teacher, constants, p_hidden, chunk, spec, ctx.frozen)
            values.append(value)
            if ctx.frozen:
                slope[chunk] = grad.to(weight.dtype) @ weight
        # The heads' own tensors go through save_for_backward, so that changing them in between is noticed.
        ctx.options = (student.softcap, student.temperature, teacher, spec, chunk_tokens)
        ctx.inputs = 7 + len(constants)
        saved = (slope,) if ctx.frozen else (p_hidden, weight, bias, *constants)
        ctx.save_for_backward(*saved)
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.frozen:
            (slope,) = ctx.saved_tensors
            return (slope * grad[:, None]).to(slope.dtype), *(None,) * (ctx.inputs - 1)
        p_hidden, weight, bias, *constants = ctx.saved_tensors
        softcap, temperature, teacher, spec, chunk_tokens = ctx.options
        student = Projection(weight, bias, softcap, temperature)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.empty_like(p_hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight, dtype=grad.dtype) if needs_weight else None
        d_bias = weight.new_zeros(len(weight), dtype=grad.dtype) if needs_bias else None
        for chunk in chunks(len(p_hidden), chunk_tokens):
            _, tile = _chunk(student, teacher, constants, p_hidden, chunk, spec, True)
            tile.mul_(grad[chunk, None])
            if d_hidden is not None:
                d_hidden[chunk] = tile.to(weight.dtype) @ weight
            if d_weight is not None:
                add_matmul(d_weight, tile.T, p_hidden[chunk])
            if d_bias is not None:
                d_bias += tile.sum(dim=0)
        d_weight = None if d_weight is None else d_weight.to(weight.dtype)
        return d_hidden, d_weight, None if d_bias is None else d_bias.to(bias.dtype), *(None,) * (ctx.inputs - 3)


def _chunk(
    student: Projection,
    teacher: TileTeacher,
    constants: Sequence[Any],
    p_hidden: Tensor,
    chunk: slice,
    spec: Spec,
    with_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Divergence of a chunk's tokens and, ``with_grad``, its gradient by the student's uncapped logits."""
    dtype = math_dtype(student.weight_VH)
    logits = chunk_logits(student, p_hidden[chunk], dtype)
    cap_slope = student.cap_slope(logits) if with_grad else None
    log_p = logits.log_softmax(dim=1)
    log_q = teacher.log_q(constants, chunk, log_p)
    del logits  # a tile is the unit of memory here
    value, grad = _compare(log_p, log_q, spec, with_grad)
    if with_grad:
        grad = grad.div_(student.temperature)
        grad = grad if cap_slope is None else grad.mul_(cap_slope)
    return value, grad
