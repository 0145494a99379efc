"""What a run keeps for `uniopd view`: groups of answers with every token, and pairs, as JSON lines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_uniopd.diagnostics.preferences import WeighedPairs
from lit_uniopd.functional.grouped_returns import trajectory_returns
from lit_uniopd.functional.order import order_consistency
from lit_uniopd.teachers.reading import transcript
from lit_uniopd.types import Prompt, Rollouts
from lit_uniopd.utils.markdown import last_message_text

EVIDENCE = ("verdicts", "votes", "boxes", "detectors")
"""Columns of sentence pairs with the verdicts on their objects (``hallucination.records.pair_rows``)."""

Why = Literal["best", "worst", "misordered"]
"""Why a group was chosen: it has the answer with the highest or the lowest return before calibration, or its teacher
ranks a wrong answer furthest above a right one."""


def chosen_groups(rollouts: Rollouts, routes: Sequence[str]) -> dict[int, list[Why]]:
    """Numbers of the groups worth keeping, of every domain and teacher, and why.

    Args:
        rollouts: graded and scored.
        routes: name of each answer's teacher.

    Returns:
        Group -> reasons. Answers that no teacher scored choose no group; ``misordered`` needs right and wrong ones.
    """
    log_ratio_BT = (rollouts.teacher_logps_BT - rollouts.student_logps_BT) * rollouts.mask_BT
    returns = trajectory_returns(log_ratio_BT, rollouts.mask_BT).tolist()
    groups, scored = rollouts.group_B.tolist(), rollouts.teacher_ok_B.tolist()
    reasons: dict[int, list[Why]] = {}

    def add_reason(group: int, why: Why) -> None:
        if why not in reasons.setdefault(group, []):
            reasons[group].append(why)

    keys = list(zip(rollouts.domain, routes, strict=True))
    for key in sorted(set(keys)):
        rows = [row for row in range(len(keys)) if keys[row] == key and scored[row]]
        if not rows:
            continue
        add_reason(groups[max(rows, key=returns.__getitem__)], "best")
        add_reason(groups[min(rows, key=returns.__getitem__)], "worst")
        index = torch.tensor(rows)
        order = order_consistency(
            torch.tensor(returns)[index], rollouts.outcome_B.cpu()[index], rollouts.group_B.cpu()[index]
        )
        if len(order.groups) and float(order.margin_minmax.min()) < 0:
            add_reason(int(order.groups[order.margin_minmax.argmin()]), "misordered")
    return reasons


def group_record(
    rollouts: Rollouts,
    rows: Sequence[int],
    *,
    step: int,
    teacher: str,
    why: Sequence[Why],
    pieces: Callable[[Sequence[int]], list[str]],
    gap_threshold: float | None,
    max_tokens: int,
    never_gap_masked_BT: Tensor | None = None,
    read: Prompt | None = None,
) -> dict[str, Any]:
    """One group of answers, as JSON.

    Args:
        rollouts: after calibration.
        rows: the answers to one prompt.
        step: of training.
        teacher: name of the one that scored them.
        why: reasons for keeping the group.
        pieces: token ids -> the text of each.
        gap_threshold: tokens on which student and teacher differ by this much or more train nothing; None: no limit.
        max_tokens: tokens of each answer that are kept; ``length`` says how many it had.
        never_gap_masked_BT: tokens that train in spite of the threshold; None: there are none.
        read: the prompt as the teacher read it; None: as the student did.
    """
    spared_BT = torch.zeros_like(rollouts.mask_BT) if never_gap_masked_BT is None else never_gap_masked_BT
    prompt = rollouts.prompts[rows[0]]
    return {
        "step": step,
        "domain": prompt.domain,
        "teacher": teacher,
        "why": list(why),
        "prompt": last_message_text(prompt),
        "images": _paths(prompt),
        "gold": None if prompt.gold is None else str(prompt.gold),
        **({} if read is None or read is prompt else {"read": _read(prompt, read)}),
        "answers": [_answer(rollouts, row, pieces, gap_threshold, max_tokens, spared_BT[row]) for row in rows],
    }


def _read(prompt: Prompt, read: Prompt) -> str:
    """What a teacher read, and the names of its pictures where they are not the student's."""
    names = ", ".join(Path(path).name for path in _paths(read)) or "none"
    return transcript(read) + ("" if read.images == prompt.images else f"\n\npictures: {names}")


def _answer(
    rollouts: Rollouts,
    row: int,
    pieces: Callable[[Sequence[int]], list[str]],
    gap_threshold: float | None,
    max_tokens: int,
    spared_T: Tensor,
) -> dict[str, Any]:
    length = int(rollouts.lengths_B[row])
    ids = rollouts.tokens_BT[row, :length].tolist()
    student, teacher, advantage = (
        values_BT[row, :length].double().cpu()
        for values_BT in (rollouts.student_logps_BT, rollouts.teacher_logps_BT, rollouts.advantages_BT)
    )
    scored = bool(rollouts.teacher_ok_B[row])
    before = teacher - student if scored else torch.zeros_like(student)
    far = before.abs() >= (float("inf") if gap_threshold is None else gap_threshold)
    far &= ~spared_T[:length].cpu()
    clipped = rollouts.clipped_BT[row, :length].cpu()
    unaligned = ~rollouts.scored_BT[row, :length].cpu()
    marks = zip(unaligned.tolist(), far.tolist(), clipped.tolist(), strict=True)
    flags = ["u" if alone else "g" if gap else "c" if clip else "." for alone, gap, clip in marks]
    mean_before, mean_after = (float(values.mean()) if length else 0.0 for values in (before, advantage))
    masked = scored and bool((before != 0).any()) and not bool((advantage != 0).any())
    return {
        "outcome": int(rollouts.outcome_B[row]),
        "reason": rollouts.grades[row].reason,
        "finish": rollouts.finish[row],
        "length": length,
        "kept": bool(rollouts.keep_B[row]),
        "scored": scored,
        "masked": masked,
        "return": [round(mean_before, 4), round(mean_after, 4)],
        "tokens": pieces(ids)[:max_tokens],
        "student": _rounded(student[:max_tokens]),
        "teacher": _rounded(teacher[:max_tokens]) if scored else [],
        "advantage": _rounded(advantage[:max_tokens]),
        "flags": "".join(flags[:max_tokens]),
    }


def pair_records(pairs: WeighedPairs, *, step: int, count: int) -> list[dict[str, Any]]:
    """Preference pairs with the policy's margins and weights, as JSON: those of highest and of lowest weight.

    Those of sentence pairs hold their context beside the question, and the evidence: verdicts, votes, boxes.

    Args:
        pairs: to choose from.
        step: of training.
        count: pairs to keep, half of them from either end.
    """
    order = pairs.weights.argsort(descending=True, stable=True).tolist()
    indices = order if len(order) <= count else order[: count - count // 2] + order[len(order) - count // 2 :]
    lines = []
    for i in indices:
        pair = pairs.pairs[i].pair
        scores = {"score_chosen": pair.score_chosen, "score_rejected": pair.score_rejected}
        lines.append(
            {
                "step": step,
                "domain": pair.prompt.domain,
                **_question_and_context(pair.prompt),
                "images": _paths(pair.prompt),
                **_evidence(pair.prompt),
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                # JSON has no NaN.
                **{name: None if score != score else score for name, score in scores.items()},
                "margin": round(float(pairs.margins[i]), 4),
                "w_quality": round(float(pairs.w_quality[i]), 4),
                "w_performance": round(float(pairs.w_performance[i]), 4),
                **{name: round(float(values[i]), 4) for name, values in pairs.further.items()},
            }
        )
    return lines


def _question_and_context(prompt: Prompt) -> dict[str, str]:
    """The question, and the beginning of the answer where the prompt contains one."""
    *before, last = prompt.messages
    if last["role"] != "assistant" or not before:
        return {"prompt": last_message_text(prompt)}
    return {"prompt": last_message_text(replace(prompt, messages=tuple(before))), "context": last_message_text(prompt)}


def _paths(prompt: Prompt) -> list[str]:
    """Files of the pictures; those that are embedded in a table are not kept."""
    return [str(Path(image).absolute()) for image in prompt.images if isinstance(image, str)]


def _evidence(prompt: Prompt) -> dict[str, Any]:
    """What detectors said about the objects of a sentence pair; empty for other pairs.

    Tables that were stored by columns have null where an object is not the row's.
    """
    row = {name: prompt.row[name] for name in EVIDENCE if prompt.row.get(name)}
    for name in ("verdicts", "votes"):
        if isinstance(row.get(name), Mapping):
            row[name] = {word: value for word, value in row[name].items() if value is not None}
    return row


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 3) + 0.0 for value in values.tolist()]  # no -0.0


def token_pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], context: int = 8) -> list[str]:
    """The text that each token adds, special tokens included; the pieces of an answer join to its text.

    A character may be split over several tokens: the last of them gets it, those before it get no text.

    Args:
        tokenizer: of the model that wrote them.
        ids: of one answer.
        context: tokens before each that are decoded with it, since some decoders write spaces by what comes before.
    """
    pieces: list[str] = []
    start = 0  # of the tokens whose text is not in any piece yet
    for end in range(1, len(ids) + 1):
        first = max(0, start - context)
        prefix = _decoded(tokenizer, ids[first:start])
        text = _decoded(tokenizer, ids[first:end])
        piece = text[len(prefix) :] if text.startswith(prefix) else _decoded(tokenizer, ids[start:end])
        if piece.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids) and end - start < 4:
            pieces.append("")
        else:
            pieces.append(piece)
            start = end
    return pieces


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
