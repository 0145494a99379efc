"""What teachers have said of a rollout's answers, checked before it is used."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_uniopd.functional.alignment import NONE, share_log_probs
from lit_uniopd.functional.mixture import mixture_logps
from lit_uniopd.teachers.answer_alignment import AlignedAnswer
from lit_uniopd.teachers.base import Scored, Scorer, Teacher
from lit_uniopd.types import Rollouts


class ScoredAnswers:
    """Log-probs of the answers of a rollout by one teacher, or by several that score as one.

    Args:
        teacher: who scores.
        rollouts: all answers; likeliest tokens, where servers are asked for them, are written into them.
        failures: counts why answers were not scored.

    Attributes:
        logps_BT: float32, 0 in padding and where scoring failed.
        ok_B: False where it failed, or was not asked.
    """

    def __init__(self, teacher: Scorer, rollouts: Rollouts, failures: Counter[str]) -> None:
        self.teacher = teacher
        self.rollouts = rollouts
        self.failures = failures
        self.logps_BT = torch.zeros_like(rollouts.student_logps_BT)
        self.ok_B = torch.zeros(len(rollouts), dtype=torch.bool, device=self.logps_BT.device)

    def readable(self, rows: list[int]) -> list[int]:
        """Rows without a token that the teacher does not know; the others are counted as failures."""
        ids = self.teacher.foreign_ids
        if not rows or not len(ids):
            return rows
        foreign_BT = torch.isin(self.rollouts.tokens_BT[rows].cpu(), ids) & self.rollouts.mask_BT[rows].cpu()
        foreign = foreign_BT.any(dim=1).tolist()
        self._fail("tokens it does not know", sum(foreign))
        return [row for row, is_foreign in zip(rows, foreign, strict=True) if not is_foreign]

    def store(self, scored: Scored, rows: list[int]) -> None:
        """Write log-probs into their rows, or count why they cannot be used.

        Args:
            scored: of some of these rows.
            rows: that the teacher was given.
        """
        target_rows = [rows[i] for i in scored.rows]
        width = int(self.rollouts.lengths_B[target_rows].max())
        if scored.logps_BT is None:
            self._fail(scored.problem, len(target_rows))
        elif scored.logps_BT.shape != (len(target_rows), width):
            self._fail("too many or too few log-probs", len(target_rows))
        else:
            teacher_logps_BT = scored.logps_BT.to(self.logps_BT)
            finite_B = teacher_logps_BT.isfinite().all(dim=1)
            if scored.top is not None:
                finite_B &= torch.tensor([bool(top.logps_TK.isfinite().all()) for top in scored.top]).to(finite_B)
            self._fail("log-probs that are not finite", int((~finite_B).sum()))
            self.logps_BT[target_rows, :width] = teacher_logps_BT.masked_fill(~finite_B[:, None], 0.0)
            self.ok_B[target_rows] = finite_B
            if scored.scored_BT is not None:
                self.rollouts.scored_BT[target_rows, :width] = scored.scored_BT.to(self.rollouts.scored_BT.device)
        for row, top in zip(target_rows, scored.top or (), strict=bool(scored.top)):
            if self.ok_B[row]:
                self.rollouts.teacher_top_ids[row] = top.ids_TK
                self.rollouts.teacher_top_logps[row] = top.logps_TK

    def _fail(self, reason: str, count: int) -> None:
        if count:
            self.failures[f"{self.teacher.name}, {reason}"] += count


def scores(teacher: Scorer, rollouts: Rollouts, *, temperature: float, max_tokens: int) -> Iterator[Scored]:
    """A teacher's log-probs of the student's tokens, as ``Teacher.score``, whatever its own tokens are.

    A teacher with another tokenizer scores the answers in its own tokens, and its log-prob of each chunk of text is
    shared out over the student's tokens in it.

    Args:
        teacher: who scores.
        rollouts: answers to prompts of this teacher, with the student's log-probs.
        temperature: divides the logits.
        max_tokens: token budget of one forward pass.
    """
    options = {"temperature": temperature, "max_tokens": max_tokens}
    if not isinstance(teacher, Teacher) or teacher.aligner is None:
        if len(rollouts) or teacher.by_layer:  # other ranks may have answers, and gather layers for them
            yield from teacher.score(rollouts, **options)  # type: ignore[arg-type]
        return
    tokens = [row[mask].tolist() for row, mask in zip(rollouts.tokens_BT.cpu(), rollouts.mask_BT.cpu(), strict=True)]
    answers = [
        teacher.aligner(teacher.reading(prompt), answer, ended=finish == "stop")
        for prompt, answer, finish in zip(rollouts.prompts, tokens, rollouts.finish, strict=True)
    ]
    teacher.aligner.count(answers, teacher.name)
    rows = [row for row, answer in enumerate(answers) if bool((answer.student_chunks_T >= 0).any())]
    if len(rows) < len(answers):
        others = sorted(set(range(len(answers))) - set(rows))
        yield Scored(others, None, "no text that its tokenizer writes alike")
    if rows or teacher.by_layer:
        reencoded = _reencoded(rollouts[rows], [answers[row] for row in rows]) if rows else rollouts[rows]
        for scored in teacher.score(reencoded, **options):  # type: ignore[arg-type]
            target_rows = [rows[i] for i in scored.rows]
            yield _shared(scored, target_rows, rollouts[target_rows], [answers[row] for row in target_rows])


def _reencoded(rollouts: Rollouts, answers: Sequence[AlignedAnswer]) -> Rollouts:
    """The same answers in the teacher's tokens; nothing else that is per token is known of them."""
    lengths = torch.tensor([len(answer.teacher_tokens) for answer in answers])
    mask_BT = (torch.arange(int(lengths.max())) < lengths[:, None]).to(rollouts.tokens_BT.device)
    tokens = [torch.tensor(answer.teacher_tokens) for answer in answers]
    zeros_BT = torch.zeros(mask_BT.shape, device=mask_BT.device)
    per_token = ("student_logps_BT", "teacher_logps_BT", "advantages_BT", "sampler_logps_BT")
    return replace(
        rollouts,
        tokens_BT=pad_sequence(tokens, batch_first=True).to(rollouts.tokens_BT),
        mask_BT=mask_BT,
        scored_BT=mask_BT,
        clipped_BT=torch.zeros_like(mask_BT),
        **dict.fromkeys(per_token, zeros_BT),
    )


def _shared(scored: Scored, rows: list[int], rollouts: Rollouts, answers: Sequence[AlignedAnswer]) -> Scored:
    """Scores of the teacher's tokens as those of the student's."""
    teacher_chunks = [answer.teacher_chunks_U for answer in answers]
    teacher_chunks_BU = pad_sequence(teacher_chunks, batch_first=True, padding_value=NONE)
    if scored.logps_BT is None or scored.logps_BT.shape != teacher_chunks_BU.shape:
        return Scored(rows, None, scored.problem or "too many or too few log-probs")
    device = rollouts.student_logps_BT.device
    student_chunks = [answer.student_chunks_T for answer in answers]
    student_chunks_BT = pad_sequence(student_chunks, batch_first=True, padding_value=NONE).to(device)
    logps_BT = share_log_probs(
        scored.logps_BT.to(device), rollouts.student_logps_BT, teacher_chunks_BU.to(device), student_chunks_BT
    )
    finite_B1 = scored.logps_BT.to(device).isfinite().all(dim=1, keepdim=True)
    logps_BT = logps_BT.masked_fill(~finite_B1, torch.nan)
    return Scored(rows, logps_BT, cached=scored.cached, scored_BT=student_chunks_BT >= 0)


def mixed(
    scored: Mapping[str, ScoredAnswers], shares: Sequence[Mapping[str, float]], rollouts: Rollouts
) -> tuple[Tensor, Tensor]:
    """Each answer's log-probs under its teachers' arithmetic mixture, and whether all of them could score it.

    Args:
        scored: by teacher, or by several that score as one.
        shares: of each answer, its teachers and their shares; a single one's log-probs are taken as they are.
        rollouts: the answers.
    """
    logps_BT = torch.zeros_like(rollouts.student_logps_BT)
    ok_B = torch.zeros(len(rollouts), dtype=torch.bool, device=logps_BT.device)
    rows_of: dict[tuple[tuple[str, float], ...], list[int]] = {}
    for row, parts in enumerate(shares):
        rows_of.setdefault(tuple(parts.items()), []).append(row)
    for parts, rows in rows_of.items():
        names, weights = zip(*parts, strict=True)
        ok_B[rows] = torch.stack([scored[name].ok_B[rows] for name in names]).all(dim=0)
        values = mixture_logps([scored[name].logps_BT[rows] for name in names], weights)
        logps_BT[rows] = values.masked_fill(~(ok_B[rows][:, None] & rollouts.mask_BT[rows]), 0.0)
    return logps_BT, ok_B
