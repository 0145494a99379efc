"""Divergences between student and teacher over the whole vocabulary, from hidden states, a chunk of tokens at a time.

All three kinds need only two tiles, ``log p`` (student) and ``log q`` (teacher). With ``m = beta q + (1 - beta) p``:

======= ============================================ ==================================== =================
kind    divergence                                   gradient by the student's logits     ``beta`` limit
======= ============================================ ==================================== =================
reverse ``KL(p || q)``                               ``p (log p/q - KL(p||q))``           jsd, ``beta = 1``
forward ``KL(q || p)``                               ``p - q``                            jsd, ``beta = 0``
jsd     ``beta KL(q || m) + (1 - beta) KL(p || m)``  ``(1-beta) p (log p/m - KL(p||m))``
======= ============================================ ==================================== =================

This is TRL's convention for ``beta`` (``GKDTrainer.generalized_jsd_loss``).

Top-k with a tail bucket is the same computation: give each token outside the support the share of the teacher's tail
that equals its share of the student's, ``q'_v = p_v Q_tail / P_tail``. Then ``log p_v / q'_v`` is the tail bucket's own
log-ratio for every tail token, so sums over tokens are sums over buckets, and the gradients in the table stay exact.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lit_uniopd.functional.projection import Projection, add_matmul, check_positive, chunks, math_dtype

Kind = Literal["reverse", "forward", "jsd"]

CHUNK_TOKENS = 256
"""Tokens per chunk; about five tiles of ``[chunk, V]`` live at once."""


@dataclass(frozen=True, slots=True)
class _Spec:
    """Which divergence, on which tokens. ``jsd`` at the ends of ``beta`` has become the KL it equals."""

    kind: Kind
    beta: float
    top_k: int | None

    @classmethod
    def checked(cls, kind: str, beta: float, top_k: int | None, vocabulary: int) -> "_Spec":
        if kind not in ("reverse", "forward", "jsd"):
            raise ValueError(f"kind must be 'reverse', 'forward' or 'jsd', got {kind!r}")
        if not 0.0 <= beta <= 1.0:
            raise ValueError(f"beta must be in [0, 1], got {beta}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}; None means the whole vocabulary")
        if kind == "jsd" and beta in (0.0, 1.0):
            kind = "reverse" if beta == 1.0 else "forward"
        return cls(kind, beta, top_k if top_k is not None and top_k < vocabulary else None)


def divergence(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    student_weight: Tensor,
    teacher_weight: Tensor,
    mask_BT: Tensor,
    *,
    kind: Kind = "reverse",
    beta: float = 0.5,
    top_k: int | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
) -> Tensor:
    """Divergence of student and teacher per token, over the vocabulary they share.

    Differentiable in the student's hidden states, weight and bias; the teacher is a constant. Vocabularies of different
    size (padding) are cut to their common leading ids, and both distributions renormalised.

    Args:
        student_hidden: ``[B, T, H_s]`` last hidden states at the positions that predict the tokens.
        teacher_hidden: ``[B, T, H_t]`` the teacher's, at the same positions.
        student_weight: ``[V_s, H_s]`` output projection.
        teacher_weight: ``[V_t, H_t]`` the teacher's.
        mask_BT: True where to compute the divergence; other positions are never read, whatever stands there.
        kind: See the table at the top of this module.
        beta: Share of the teacher in the mixture of ``jsd``; 0 is the forward and 1 the reverse KL, as in TRL.
        top_k: Compare only the k likeliest tokens (of the teacher for ``forward``, of the student for ``reverse``, of
            either for ``jsd``), and all others as one bucket. None, or k >= V: every token.
        temperature: Divides both models' (capped) logits.
        chunk_tokens: Tokens whose logits exist at once.
        student_bias: Bias of the projection.
        teacher_bias: Bias of the teacher's.
        student_softcap: Gemma 2's logit cap.
        teacher_softcap: The teacher's.

    Returns:
        ``[B, T]`` in nats, float32 or better; 0 outside the mask.

    Raises:
        ValueError: if shapes do not fit or an option is out of range.

    Example:
        >>> hidden, mask_BT = torch.ones(1, 1, 1), torch.tensor([[True]])
        >>> student, teacher = (torch.tensor(probs)[:, None].log() for probs in ([0.5, 0.5], [0.25, 0.75]))
        >>> divergence(hidden, hidden, student, teacher, mask_BT)  # 0.5 log(0.5 / 0.25) + 0.5 log(0.5 / 0.75)
        tensor([[0.1438]])
    """
    student = Projection(student_weight, student_bias, student_softcap, temperature)
    teacher = Projection(teacher_weight, teacher_bias, teacher_softcap, temperature)
    mask = _check(student, teacher, student_hidden, teacher_hidden, mask_BT, chunk_tokens)
    (p_hidden, student), (q_hidden, teacher) = _align(student, teacher, student_hidden[mask], teacher_hidden[mask])
    spec = _Spec.checked(kind, beta, top_k, len(student.weight_VH))
    with torch.autocast(p_hidden.device.type, enabled=False):
        values = _Divergence.apply(
            p_hidden, student.weight_VH, student.bias_V, q_hidden, student, teacher, spec, chunk_tokens
        )
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


@torch.no_grad()
def topk_mass(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    student_weight: Tensor,
    teacher_weight: Tensor,
    mask_BT: Tensor,
    *,
    top_k: int,
    kind: Kind = "reverse",
    beta: float = 0.5,
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
) -> Tensor:
    """How much probability ``divergence`` compares token by token, the rest being the tail bucket; for logging.

    Under the distribution the divergence averages over: the student's for ``reverse``, the teacher's for ``forward``,
    their mixture for ``jsd``. Arguments and errors as in ``divergence``.

    Returns:
        ``[B, T]`` in [0, 1]; 0 outside the mask.

    Example:
        >>> hidden, mask_BT = torch.ones(1, 1, 1), torch.tensor([[True]])
        >>> student, teacher = (torch.tensor(probs)[:, None].log() for probs in ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6]))
        >>> topk_mass(hidden, hidden, student, teacher, mask_BT, top_k=2)  # of the student
        tensor([[0.9000]])
    """
    student = Projection(student_weight, student_bias, student_softcap, temperature)
    teacher = Projection(teacher_weight, teacher_bias, teacher_softcap, temperature)
    mask = _check(student, teacher, student_hidden, teacher_hidden, mask_BT, chunk_tokens)
    (p_hidden, student), (q_hidden, teacher) = _align(student, teacher, student_hidden[mask], teacher_hidden[mask])
    spec = _Spec.checked(kind, beta, top_k, len(student.weight_VH))
    dtype = math_dtype(student.weight_VH)
    values = p_hidden.new_zeros(mask.shape, dtype=dtype)
    if spec.top_k is None:
        return values.masked_fill(mask, 1.0)
    share = {"reverse": 0.0, "forward": 1.0, "jsd": beta}[spec.kind]
    chunk_masses = [values.new_empty(0)]
    with torch.autocast(p_hidden.device.type, enabled=False):
        for chunk in chunks(len(p_hidden), chunk_tokens):
            log_p = _logits(student, p_hidden[chunk], dtype).log_softmax(dim=1)
            log_q = _logits(teacher, q_hidden[chunk], dtype).log_softmax(dim=1)
            support = _support(log_p, log_q, spec)
            mixture = share * log_q.exp_() + (1.0 - share) * log_p.exp_()
            chunk_masses.append(torch.where(support, mixture, 0.0).sum(dim=1))
    return values.masked_scatter(mask, torch.cat(chunk_masses))


def _check(
    student: Projection, teacher: Projection, p_hidden: Tensor, q_hidden: Tensor, mask: Tensor, chunk_tokens: int
) -> Tensor:
    student.check(p_hidden, "student_")
    teacher.check(q_hidden, "teacher_")
    check_positive(chunk_tokens=chunk_tokens)
    for name, shape in (("student_hidden", p_hidden.shape), ("teacher_hidden", q_hidden.shape)):
        if shape[:-1] != mask.shape:
            raise ValueError(f"{name} has shape {tuple(shape)}, which does not fit mask_BT {tuple(mask.shape)}")
    return mask.bool()


def _align(
    student: Projection, teacher: Projection, p_hidden: Tensor, q_hidden: Tensor
) -> tuple[tuple[Tensor, Projection], tuple[Tensor, Projection]]:
    """Cut both heads to the common vocabulary, cast each to its compute type, and detach the teacher."""
    common = min(len(student.weight_VH), len(teacher.weight_VH))

    def prepared(head: Projection, hidden: Tensor) -> tuple[Tensor, Projection]:
        weight, bias, dtype = head.weight_VH, head.bias_V, head.compute_dtype()
        if len(weight) > common:
            weight, bias = weight[:common], None if bias is None else bias[:common]
        return hidden.to(dtype), Projection(weight.to(dtype), bias, head.softcap, head.temperature)

    with torch.no_grad():
        constant = prepared(teacher, q_hidden)
    return prepared(student, p_hidden), constant


def _logits(head: Projection, hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return head.fill(hidden.new_empty(len(hidden), len(head.weight_VH), dtype=dtype), hidden)


def _support(log_p: Tensor, log_q: Tensor, spec: _Spec) -> Tensor:
    assert spec.top_k is not None
    support = torch.zeros_like(log_p, dtype=torch.bool)
    for kind, scores in (("reverse", log_p), ("forward", log_q)):
        if spec.kind in (kind, "jsd"):
            support.scatter_(1, scores.topk(spec.top_k, dim=1).indices, True)
    return support


def _merge_tail(log_p: Tensor, log_q: Tensor, spec: _Spec) -> Tensor:
    """The teacher with its tail shared out like the student's: see the top of this module."""
    support = _support(log_p, log_q, spec)
    p_tail, q_tail = (t.masked_fill(support, -torch.inf).logsumexp(dim=1, keepdim=True) for t in (log_p, log_q))
    # A union of two supports may leave no tail at all; then `where` takes nothing from its second branch.
    return torch.where(support, log_q, log_p + (q_tail - p_tail))


def _mixture_gap(gap: Tensor, beta: float) -> Tensor:
    """``log m / p`` from ``gap = log q / p``: exactly 0 where they agree, and finite for any gap."""
    weight = (gap > 0).to(gap.dtype).mul_(1.0 - 2.0 * beta).add_(beta)
    return gap.abs().neg_().expm1_().mul_(weight).log1p_().add_(gap.clamp(min=0.0))


def _compare(log_p: Tensor, log_q: Tensor, spec: _Spec, with_grad: bool) -> tuple[Tensor, Tensor]:
    """Divergence ``[N]`` and its gradient ``[N, V]`` by the student's final logits (empty without ``with_grad``)."""
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


class _Divergence(Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        p_hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        q_hidden: Tensor,
        student: Projection,
        teacher: Projection,
        spec: _Spec,
        chunk_tokens: int,
    ) -> Tensor:
        trained = any(ctx.needs_input_grad[1:3])
        ctx.frozen = ctx.needs_input_grad[0] and not trained
        slope = torch.empty_like(p_hidden) if ctx.frozen else p_hidden.new_empty(0)
        values = [p_hidden.new_empty(0, dtype=math_dtype(weight))]
        for chunk in chunks(len(p_hidden), chunk_tokens):
            value, grad = _chunk(student, teacher, p_hidden[chunk], q_hidden[chunk], spec, ctx.frozen)
            values.append(value)
            if ctx.frozen:
                slope[chunk] = grad.to(weight.dtype) @ weight
        # The heads' own tensors go through save_for_backward, so that changing them in between is noticed.
        ctx.options = (student.softcap, student.temperature, teacher.softcap, spec, chunk_tokens)
        saved = (slope,) if ctx.frozen else (p_hidden, weight, bias, q_hidden, teacher.weight_VH, teacher.bias_V)
        ctx.save_for_backward(*saved)
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.frozen:
            (slope,) = ctx.saved_tensors
            return (slope * grad[:, None]).to(slope.dtype), *(None,) * 7
        p_hidden, weight, bias, q_hidden, teacher_weight, teacher_bias = ctx.saved_tensors
        softcap, temperature, teacher_softcap, spec, chunk_tokens = ctx.options
        student = Projection(weight, bias, softcap, temperature)
        teacher = Projection(teacher_weight, teacher_bias, teacher_softcap, temperature)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.empty_like(p_hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight, dtype=grad.dtype) if needs_weight else None
        d_bias = weight.new_zeros(len(weight), dtype=grad.dtype) if needs_bias else None
        for chunk in chunks(len(p_hidden), chunk_tokens):
            _, tile = _chunk(student, teacher, p_hidden[chunk], q_hidden[chunk], spec, True)
            tile.mul_(grad[chunk, None])
            if d_hidden is not None:
                d_hidden[chunk] = tile.to(weight.dtype) @ weight
            if d_weight is not None:
                add_matmul(d_weight, tile.T, p_hidden[chunk])
            if d_bias is not None:
                d_bias += tile.sum(dim=0)
        d_weight = None if d_weight is None else d_weight.to(weight.dtype)
        return d_hidden, d_weight, None if d_bias is None else d_bias.to(bias.dtype), *(None,) * 5


def _chunk(
    student: Projection, teacher: Projection, p_hidden: Tensor, q_hidden: Tensor, spec: _Spec, with_grad: bool
) -> tuple[Tensor, Tensor]:
    """Divergence of a chunk's tokens and, ``with_grad``, its gradient by the student's uncapped logits."""
    dtype = math_dtype(student.weight_VH)
    logits = _logits(student, p_hidden, dtype)
    cap_slope = student.cap_slope(logits) if with_grad else None
    log_p, log_q = logits.log_softmax(dim=1), _logits(teacher, q_hidden, dtype).log_softmax(dim=1)
    del logits  # a tile is the unit of memory here
    value, grad = _compare(log_p, log_q, spec, with_grad)
    if with_grad:
        grad = grad.div_(student.temperature)
        grad = grad if cap_slope is None else grad.mul_(cap_slope)
    return value, grad
