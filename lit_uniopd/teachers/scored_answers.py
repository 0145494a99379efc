"""What teachers have said of a rollout's answers, checked before it is used."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lit_uniopd.functional.mixture import mixture_logps
from lit_uniopd.teachers.base import Scored, Teacher
from lit_uniopd.types import Rollouts


class ScoredAnswers:
    """Log-probs of the answers of a rollout by one teacher.

    Args:
        teacher: who scores.
        rollouts: all answers; likeliest tokens, where servers are asked for them, are written into them.
        failures: counts why answers were not scored.

    Attributes:
        logps_BT: float32, 0 in padding and where scoring failed.
        ok_B: False where it failed, or was not asked.
    """

    def __init__(self, teacher: Teacher, rollouts: Rollouts, failures: Counter[str]) -> None:
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
        for row, top in zip(target_rows, scored.top or (), strict=bool(scored.top)):
            if self.ok_B[row]:
                self.rollouts.teacher_top_ids[row] = top.ids_TK
                self.rollouts.teacher_top_logps[row] = top.logps_TK

    def _fail(self, reason: str, count: int) -> None:
        if count:
            self.failures[f"{self.teacher.name}, {reason}"] += count


def mixed(
    scored: Mapping[str, ScoredAnswers], shares: Sequence[Mapping[str, float]], rollouts: Rollouts
) -> tuple[Tensor, Tensor]:
    """Each answer's log-probs under its teachers' mixture, and whether all of them could score it.

    Args:
        scored: by teacher.
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
