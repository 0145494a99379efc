import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_uniopd.functional.alignment import NONE, align_chunks, share_log_probs

WIDTHS = st.lists(st.integers(0, 4), min_size=1, max_size=12)


def chunks_by_hand(student: list[int], teacher: list[int]) -> tuple[list[int], list[int]]:
    """One byte after the other: a chunk ends where a token of both ends."""
    text, numbers = max(student[-1], teacher[-1]), {}
    chunk = 0
    for place in range(text + 1):  # the byte behind ``place``
        if place and place in student and place in teacher:
            chunk += 1
        numbers[place] = chunk

    def of(ends: list[int]) -> list[int]:
        chunks = [numbers[start] for start in [0, *ends[:-1]]]
        return [number if number < chunk else NONE for number in chunks]

    return of(student), of(teacher)


@given(WIDTHS, WIDTHS)
@settings(max_examples=200, deadline=None)
def test_chunks_are_the_smallest_with_shared_ends(student_widths, teacher_widths):
    student, teacher = (torch.tensor(widths).cumsum(0) for widths in (student_widths, teacher_widths))
    chunks = align_chunks(student, teacher)
    assert tuple(c.tolist() for c in chunks) == chunks_by_hand(student.tolist(), teacher.tolist())


def test_ends_that_fall_are_refused():
    with pytest.raises(ValueError, match="teacher_ends_U must be one dimension"):
        align_chunks(torch.tensor([1, 2]), torch.tensor([2, 1]))


@given(WIDTHS, WIDTHS, st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_a_chunk_keeps_its_log_prob_and_advantages_add_up(student_widths, teacher_widths, seed):
    teacher_widths = [*teacher_widths, max(0, sum(student_widths) - sum(teacher_widths)) + 1]
    student_widths = [*student_widths, sum(teacher_widths) - sum(student_widths)]
    student_chunks, teacher_chunks = align_chunks(
        *(torch.tensor(w).cumsum(0) for w in (student_widths, teacher_widths))
    )
    noise = torch.Generator().manual_seed(seed)
    student = -5 * torch.rand(1, len(student_chunks), generator=noise, dtype=torch.float64)
    teacher = -5 * torch.rand(1, len(teacher_chunks), generator=noise, dtype=torch.float64)
    shares = share_log_probs(teacher, student, teacher_chunks[None], student_chunks[None])
    assert (shares[:, student_chunks == NONE] == student[:, student_chunks == NONE]).all()
    for chunk in range(int(student_chunks.max()) + 1):
        mine, theirs = student_chunks == chunk, teacher_chunks == chunk
        torch.testing.assert_close(shares[0, mine].sum(), teacher[0, theirs].sum())
        gap = teacher[0, theirs].sum() - student[0, mine].sum()
        torch.testing.assert_close((shares - student)[0, mine].sum(), gap)
        # In proportion: every token's advantage has the sign of the chunk's.
        assert ((shares - student)[0, mine] * gap.sign() >= -1e-12).all()


def test_equal_tokenizations_are_taken_bit_for_bit():
    student, teacher = -torch.rand(3, 50) * 20, -torch.rand(3, 50) * 20
    student[0, :5] = 0.0  # a token that the student is sure of
    chunks = torch.arange(50).expand(3, -1)
    assert torch.equal(share_log_probs(teacher, student, chunks, chunks), teacher)
    assert torch.equal(share_log_probs(student, student, chunks, chunks), student)


def test_a_sure_student_shares_evenly():
    shares = share_log_probs(torch.tensor([[-3.0]]), torch.zeros(1, 3), torch.tensor([[0]]), torch.tensor([[0, 0, 0]]))
    assert shares.tolist() == [[-1.0, -1.0, -1.0]]


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="teacher_logps have shape"):
        share_log_probs(torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1, 3).long(), torch.zeros(1, 3).long())
