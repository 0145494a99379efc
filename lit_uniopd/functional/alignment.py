"""Two tokenizations of one text: the chunks that both have, and a chunk's log-prob shared out over its tokens."""

import torch
from torch import Tensor

from lit_uniopd.functional.projection import math_dtype

NONE = -1
"""Chunk of a token that belongs to none: of padding, or of text that only one side has."""


def align_chunks(student_ends_T: Tensor, teacher_ends_U: Tensor) -> tuple[Tensor, Tensor]:
    """The chunk of each token, where chunks are the smallest pieces of the text whose ends both sides share.

    A token of no width goes with what follows it. Tokens behind the last end that both share belong to no chunk.

    Args:
        student_ends_T: int ``[T]``: where each of the student's tokens ends in the text, in bytes, never falling.
        teacher_ends_U: int ``[U]``: the same of the teacher's tokens.

    Returns:
        int64 ``[T]`` and ``[U]``: numbers of the chunks from 0 on, or ``NONE``.

    Raises:
        ValueError: if ends fall.

    Example:
        >>> align_chunks(torch.tensor([2, 3, 8]), torch.tensor([1, 3, 5, 8]))  # ab|c|defgh and a|bc|de|fgh
        (tensor([0, 0, 1]), tensor([0, 0, 1, 1]))
    """
    for name, ends in (("student_ends_T", student_ends_T), ("teacher_ends_U", teacher_ends_U)):
        if ends.ndim != 1 or bool((ends.diff(prepend=ends.new_zeros(1)) < 0).any()):
            raise ValueError(f"{name} must be one dimension of ends that never fall, got {ends.tolist()}")
    shared = student_ends_T[torch.isin(student_ends_T, teacher_ends_U)].unique()
    shared = shared[shared > 0]
    student, teacher = (_chunks(ends, shared) for ends in (student_ends_T, teacher_ends_U))
    return student, teacher


def _chunks(ends: Tensor, shared: Tensor) -> Tensor:
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])[: len(ends)]
    chunks = torch.searchsorted(shared, starts, right=True)
    return torch.where(chunks < len(shared), chunks, NONE)


def share_log_probs(
    teacher_logps_BU: Tensor, student_logps_BT: Tensor, teacher_chunks_BU: Tensor, student_chunks_BT: Tensor
) -> Tensor:
    """The teacher's log-prob of each chunk, shared out over the student's tokens in it, ``[B, T]``, without gradient.

    Each token gets the part that it has in the student's own log-prob of the chunk (DPCA, arXiv 2606.09456), so the
    advantage ``log p_T - log p_S`` goes to tokens that the student has chosen, and not to those that only finish a
    word: of a token that is sure the gradient is 0 whatever its advantage. Parts are 1 together, so the sum over a
    chunk is the teacher's log-prob of it. A token alone in its chunk gets that as it is: equal tokenizations are the
    plain path bit for bit.

    Args:
        teacher_logps_BU: of the teacher's tokens.
        student_logps_BT: of the student's tokens.
        teacher_chunks_BU: int64, see ``align_chunks``; ``NONE`` in padding.
        student_chunks_BT: likewise.

    Returns:
        Shares; the student's own log-probs where its token is in no chunk, so that their difference is 0 there.

    Raises:
        ValueError: if shapes differ.

    Example:
        >>> student_logps_BT, chunks_BT = torch.tensor([[-3.0, -1.0, -2.0]]), torch.tensor([[0, 0, 1]])
        >>> share_log_probs(torch.tensor([[-2.0, -5.0]]), student_logps_BT, torch.tensor([[0, 1]]), chunks_BT)
        tensor([[-1.5000, -0.5000, -5.0000]])
    """
    pairs = {"teacher": (teacher_logps_BU, teacher_chunks_BU), "student": (student_logps_BT, student_chunks_BT)}
    for name, (logps, chunks) in pairs.items():
        if logps.shape != chunks.shape or logps.ndim != 2:
            raise ValueError(
                f"{name}_logps have shape {tuple(logps.shape)} and {name}_chunks {tuple(chunks.shape)}; need as many"
            )
    dtype = math_dtype(teacher_logps_BU, student_logps_BT)
    teacher, student = teacher_logps_BU.detach().to(dtype), student_logps_BT.detach().to(dtype)
    largest = [int(chunks.max()) if chunks.numel() else NONE for chunks in (teacher_chunks_BU, student_chunks_BT)]
    count = max(largest) + 1
    teacher_BC = _sums(teacher, teacher_chunks_BU, count)
    student_BC = _sums(student, student_chunks_BT, count)
    size_BC = _sums(torch.ones_like(student), student_chunks_BT, count)
    index_BT = torch.where(student_chunks_BT < 0, count, student_chunks_BT)
    chunk_logps_BT, size_BT = student_BC.gather(1, index_BT), size_BC.gather(1, index_BT)
    # Where the student is sure of all tokens, none has more of it than another.
    is_sure_BT = chunk_logps_BT == 0
    share_BT = torch.where(is_sure_BT, 1 / size_BT.clamp(min=1), student / chunk_logps_BT.masked_fill(is_sure_BT, 1.0))
    return torch.where(student_chunks_BT < 0, student, share_BT * teacher_BC.gather(1, index_BT))


def _sums(values: Tensor, chunks: Tensor, count: int) -> Tensor:
    """Sums ``[B, count + 1]`` over each chunk; the last is of the tokens that are in none, and is never used."""
    sums = values.new_zeros(len(values), count + 1)
    return sums.scatter_add_(1, torch.where(chunks < 0, count, chunks), values)
