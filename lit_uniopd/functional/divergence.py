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

A teacher on a server names its top tokens only, and its tail is what they leave of 1: known to about 1e-7 of the whole,
whatever little it is itself. The forward KL's gradient ``p - q`` is then as exact as that (``topk_forward_kl``); the
reverse KL holds ``-P_tail log Q_tail`` and would be noise wherever the teacher is sure.
"""

from dataclasses import replace

import torch
from torch import Tensor

from lit_uniopd.functional.divergence_tiles import (
    Kind,
    NamedTeacher,
    Spec,
    WholeTeacher,
    chunk_logits,
    compare_chunks,
    top_support,
)
from lit_uniopd.functional.projection import Projection, check_positive, chunks, math_dtype

__all__ = ["Kind", "divergence", "topk_forward_kl", "topk_mass"]

CHUNK_TOKENS = 256
"""Tokens per chunk; about five tiles of ``[chunk, V]`` live at once."""


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
    entry_clip: float | None = None,
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
        entry_clip: Most nats that one entry of the vocabulary adds, without a gradient beyond it (OPSD); not with
            ``top_k``.
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
    spec = Spec.checked(kind, beta, top_k, len(student.weight_VH), entry_clip)
    constants = (q_hidden, teacher.weight_VH, teacher.bias_V)
    return compare_chunks(
        p_hidden, student, WholeTeacher(teacher.softcap, temperature), constants, spec, mask, chunk_tokens
    )


def topk_forward_kl(
    student_hidden: Tensor,
    student_weight: Tensor,
    top_ids_BTK: Tensor,
    top_logps_BTK: Tensor,
    mask_BT: Tensor,
    *,
    temperature: float = 1.0,
    chunk_tokens: int = CHUNK_TOKENS,
    student_bias: Tensor | None = None,
    student_softcap: float | None = None,
) -> Tensor:
    """``divergence`` of kind ``forward`` with ``top_k`` from the teacher's top log-probs alone.

    Ids outside of the student's vocabulary are left out, and the teacher renormalised without them. Ids that the
    student has and the teacher has not are in the tail.

    Args:
        student_hidden: ``[B, T, H]`` last hidden states at the positions that predict the tokens.
        student_weight: ``[V, H]`` output projection.
        top_ids_BTK: The teacher's likeliest tokens, each once.
        top_logps_BTK: Their log-probs at ``temperature``; minus infinity is none.
        mask_BT: True where to compute the divergence; other positions are never read, whatever stands there.
        temperature: Divides the student's (capped) logits.
        chunk_tokens: Tokens whose logits exist at once.
        student_bias: Bias of the projection.
        student_softcap: Gemma 2's logit cap.

    Returns:
        ``[B, T]`` in nats, float32 or better; 0 outside the mask.

    Raises:
        ValueError: if shapes do not fit or an option is out of range.

    Example:
        >>> hidden, mask_BT = torch.ones(1, 1, 1), torch.tensor([[True]])
        >>> student, top = torch.tensor([[0.5], [0.2], [0.3]]).log(), torch.tensor([[[0.75]]]).log()
        >>> topk_forward_kl(hidden, student, torch.tensor([[[1]]]), top, mask_BT)  # 0.75 log 3.75 + 0.25 log 0.3125
        tensor([[0.7005]])
    """
    student = Projection(student_weight, student_bias, student_softcap, temperature)
    student.check(student_hidden, "student_")
    check_positive(chunk_tokens=chunk_tokens)
    if top_ids_BTK.shape != top_logps_BTK.shape:
        raise ValueError(
            f"top_ids_BTK {tuple(top_ids_BTK.shape)} and top_logps_BTK {tuple(top_logps_BTK.shape)} differ"
        )
    for name, shape in (("student_hidden", student_hidden.shape), ("top_ids_BTK", top_ids_BTK.shape)):
        if shape[:-1] != mask_BT.shape:
            raise ValueError(f"{name} has shape {tuple(shape)}, which does not fit mask_BT {tuple(mask_BT.shape)}")
    mask, dtype = mask_BT.bool(), student.compute_dtype()
    student = replace(student, weight_VH=student_weight.to(dtype))
    top = (top_ids_BTK[mask].long(), top_logps_BTK[mask].double())
    return compare_chunks(
        student_hidden[mask].to(dtype), student, NamedTeacher(), top, Spec("forward", 0.5, None), mask, chunk_tokens
    )


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
    spec = Spec.checked(kind, beta, top_k, len(student.weight_VH))
    dtype = math_dtype(student.weight_VH)
    values = p_hidden.new_zeros(mask.shape, dtype=dtype)
    if spec.top_k is None:
        return values.masked_fill(mask, 1.0)
    share = {"reverse": 0.0, "forward": 1.0, "jsd": beta}[spec.kind]
    chunk_masses = [values.new_empty(0)]
    with torch.autocast(p_hidden.device.type, enabled=False):
        for chunk in chunks(len(p_hidden), chunk_tokens):
            log_p = chunk_logits(student, p_hidden[chunk], dtype).log_softmax(dim=1)
            log_q = chunk_logits(teacher, q_hidden[chunk], dtype).log_softmax(dim=1)
            support = top_support(log_p, log_q, spec)
            mixture = share * log_q.exp_() + (1.0 - share) * log_p.exp_()
            chunk_masses.append(torch.where(support, mixture, 0.0).sum(dim=1))
    return values.masked_scatter(mask, torch.cat(chunk_masses))


def _check(
    student: Projection, teacher: Projection, p_hidden: Tensor, q_hidden: Tensor, mask: Tensor, chunk_tokens: int
) -> Tensor:
    check_positive(chunk_tokens=chunk_tokens)
    student.check(p_hidden, "student_", mask)
    teacher.check(q_hidden, "teacher_", mask)
    return mask.bool()


def _align(
    student: Projection, teacher: Projection, p_hidden: Tensor, q_hidden: Tensor
) -> tuple[tuple[Tensor, Projection], tuple[Tensor, Projection]]:
    """Cut both heads to the common vocabulary, cast each to its compute type, and detach the teacher."""
    common = min(len(student.weight_VH), len(teacher.weight_VH))
    with torch.no_grad():
        teacher = teacher.leading(common)
        q_hidden = q_hidden.to(teacher.weight_VH.dtype)
    student = student.leading(common)
    return (p_hidden.to(student.weight_VH.dtype), student), (q_hidden, teacher)
