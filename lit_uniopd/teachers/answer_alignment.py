"""A student's answers in the tokens of a teacher with another tokenizer, and which tokens of both belong together."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_uniopd.functional.alignment import NONE, align_chunks
from lit_uniopd.policy.chat_template import answer_end, encode_text, tokenizer_of
from lit_uniopd.policy.token_bytes import TokenBytes, readable_text
from lit_uniopd.types import Prompt

log = logging.getLogger(__name__)

STEP = 4
"""Places for each byte of a text."""
NO_TEXT = "\ufffd".encode()

SPECIAL = "special tokens within an answer"
INVALID = "bytes that are no text"
CHANGED = "text that the teacher's tokenizer changes"
ENDLESS = "ends of answers, which the teacher's tokenizer has none for"


@dataclass(frozen=True, slots=True)
class AlignedAnswer:
    """One answer in the teacher's tokens, and which tokens belong together."""

    teacher_tokens: list[int]
    teacher_chunks_U: Tensor
    """int64; chunk of each, or ``NONE``."""
    student_chunks_T: Tensor
    """int64; of each of the student's tokens."""
    unaligned: Counter[str]
    """Why tokens of the student's are in no chunk -> how many."""

    @property
    def counts(self) -> Counter[str]:
        """Of the student's `tokens`, those `one_to_one` with a token of the teacher's, those `unaligned`; `chunks`."""
        student_C, teacher_C = (
            torch.bincount(c[c >= 0], minlength=1) for c in (self.student_chunks_T, self.teacher_chunks_U)
        )
        width = max(len(student_C), len(teacher_C))
        student_C, teacher_C = (torch.nn.functional.pad(c, (0, width - len(c))) for c in (student_C, teacher_C))
        return Counter(
            tokens=len(self.student_chunks_T),
            one_to_one=int(((student_C == 1) & (teacher_C == 1)).sum()),
            unaligned=int((self.student_chunks_T < 0).sum()),
            chunks=int((student_C > 0).sum()),
        )


class AnswerAligner:
    """From a student's answers to a teacher's tokens.

    Args:
        student: tokenizer of the student.
        processor: tokenizer or processor of the teacher.
        chat_template_kwargs: of the teacher.
        flags: the options that student and teacher came from, for messages.

    Raises:
        UserError: naming the option, if the tokens of one of them do not say what bytes they stand for.
    """

    def __init__(
        self,
        student: PreTrainedTokenizerBase,
        processor: Any,
        chat_template_kwargs: dict[str, Any],
        flags: tuple[str, str] = ("model.student", "model.teachers"),
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Over the answers of the last rollout; see ``AlignedAnswer.counts``."""
        self._told: set[str] = set()
        self.processor = processor
        self.options = chat_template_kwargs
        teacher = tokenizer_of(processor)
        self.same_tokens = student.get_vocab().items() <= teacher.get_vocab().items()
        self._student, self._teacher = TokenBytes(student, flags[0]), TokenBytes(teacher, flags[1])
        self._end = answer_end(processor, chat_template_kwargs)
        plain = self._end.text.removesuffix(self._end.marks[0]) if self._end.marks else self._end.text
        untyped: Any = teacher
        self._end_tokens: list[int] = untyped(plain, add_special_tokens=False).input_ids if plain else []
        self._end_tokens += [] if self._end.token is None else [self._end.token]

    def count(self, answers: Sequence[AlignedAnswer], name: str) -> None:
        """Add up what was aligned, and warn of each kind of text that was not, the first time.

        Args:
            answers: aligned by this.
            name: of the teacher.
        """
        unaligned: Counter[str] = Counter()
        self.counts = sum((answer.counts for answer in answers), Counter())
        for answer in answers:
            unaligned += answer.unaligned
        for reason in sorted(unaligned.keys() - self._told):
            self._told.add(reason)
            log.warning(
                "Teacher %r cannot score %d of %d tokens, which train nothing: %s. This is said once; "
                "teacher/%s/unaligned has the share of all such tokens.",
                name,
                unaligned[reason],
                self.counts["tokens"],
                reason,
                name,
            )

    def __call__(self, prompt: Prompt, tokens: Sequence[int], *, ended: bool) -> AlignedAnswer:
        """One answer.

        Args:
            prompt: as the teacher reads it.
            tokens: of the student's answer.
            ended: whether the last of them ends it; that token goes with those that end the teacher's turn.
        """
        if self.same_tokens:
            chunks = torch.arange(len(tokens))
            return AlignedAnswer(list(tokens), chunks, chunks, Counter())
        pieces = self._student(tokens[:-1] if ended else tokens)
        text, text_ends, runs = readable_text(b"".join(piece or b"" for piece in pieces))
        _, teacher_tokens = encode_text(self.processor, prompt, text, self.options, self._teacher.special_texts)
        # What it has no piece for is no text of the student's.
        teacher_pieces = [NO_TEXT if piece is None else piece for piece in self._teacher(teacher_tokens)]
        written = _without_lead(text.encode(), teacher_pieces)
        places = [0, *text_ends]
        student_ends = [places[end] for end in accumulate(len(piece or b"") for piece in pieces)]
        teacher_ends = list(accumulate(map(len, written)))
        student_span, teacher_span = _changed(text.encode(), b"".join(written))

        worded = [i for i, piece in enumerate(pieces) if piece is not None]
        invalid = _touched(student_ends, runs)
        student_bad = [a or b for a, b in zip(invalid, _touched(student_ends, [student_span]), strict=True)]
        teacher_bad = _touched(teacher_ends, [teacher_span])
        student_ends = _places(student_ends, student_span, student_span, inner=1)
        teacher_ends = _places(teacher_ends, teacher_span, student_span, inner=2)
        length = STEP * len(text.encode())
        if ended and self._end_tokens:  # as one byte behind the text, which both have
            worded.append(len(pieces))
            student_ends, student_bad = [*student_ends, length + 1], [*student_bad, False]
            teacher_ends += [*[length] * (len(self._end_tokens) - 1), length + 1]
            teacher_bad += [False] * len(self._end_tokens)
            teacher_tokens = [*teacher_tokens, *self._end_tokens]
        chunks, teacher_chunks = align_chunks(
            torch.tensor([student_ends[i] for i in worded], dtype=torch.long),
            torch.tensor(teacher_ends, dtype=torch.long),
        )
        bad = torch.cat([chunks[_mask(student_bad[i] for i in worded)], teacher_chunks[_mask(teacher_bad)]])
        student_chunks = torch.full((len(tokens),), NONE)
        student_chunks[worded] = torch.where(torch.isin(chunks, bad), NONE, chunks)
        teacher_chunks = torch.where(torch.isin(teacher_chunks, bad), NONE, teacher_chunks)
        unaligned = Counter({SPECIAL: sum(piece is None for piece in pieces)})
        unaligned[ENDLESS] = int(ended and not self._end_tokens)
        no_text = chunks[_mask(i < len(invalid) and invalid[i] for i in worded)]
        unaligned[INVALID] = int(torch.isin(chunks, no_text).sum())
        unaligned[CHANGED] = int((student_chunks < 0).sum()) - unaligned.total()
        return AlignedAnswer(teacher_tokens, teacher_chunks, student_chunks, +unaligned)


def _mask(flags: Iterable[bool]) -> Tensor:
    return torch.tensor(list(flags), dtype=torch.bool)


def _without_lead(text: bytes, written: list[bytes]) -> list[bytes]:
    """The teacher's pieces without spaces that its tokenizer puts before every text."""
    joined = b"".join(written)
    lead = len(joined) - len(text)
    if lead <= 0 or not joined.endswith(text) or joined[:lead].strip():
        return written
    pieces = []
    for piece in written:
        pieces.append(piece[lead:])
        lead -= min(lead, len(piece))
    return pieces


def _changed(text: bytes, written: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where two texts differ, from the first byte to the last; empty spans where they are the same."""
    before = _common(text, written)
    most = min(len(text), len(written)) - before
    behind = min(_common(text[::-1], written[::-1]), most)
    return (before, len(text) - behind), (before, len(written) - behind)


def _common(left: bytes, right: bytes) -> int:
    """Bytes with which both begin."""
    unlike = (i for i, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1])
    return next(unlike, min(len(left), len(right)))


def _touched(ends: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Which tokens have a part in one of these spans, themselves or as something of no width inside it."""
    inside = [0] * ((ends[-1] if ends else 0) + 2)
    for start, end in spans:
        for place in range(start, min(end, len(inside) - 1)):
            inside[place] = 1
    sums = [0, *accumulate(inside)]
    return [sums[end] > sums[start] for start, end in zip([0, *ends], ends, strict=False)]


def _places(ends: Sequence[int], span: tuple[int, int], student_span: tuple[int, int], *, inner: int) -> list[int]:
    """Ends as places in the student's text, ``STEP`` a byte.

    Args:
        ends: in the text of one side.
        span: of that text, where the two differ.
        student_span: the same of the student's text.
        inner: added to the place of the span's start for ends within it, so that those of the two sides never meet.
    """
    inner = inner if student_span[1] > student_span[0] else 0
    within, shift = STEP * span[0] + inner, student_span[1] - span[1]
    return [STEP * e if e <= span[0] else within if e < span[1] else STEP * (e + shift) for e in ends]
