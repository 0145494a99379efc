"""Answers on which teacher and outcome disagree most."""

from lit_uniopd.diagnostics.order import Judged
from lit_uniopd.types import CORRECT, Rollouts
from lit_uniopd.utils.markdown import cell, last_message_text, table


def misjudged_table(rollouts: Rollouts, judged: Judged, *, count: int = 3, max_chars: int = 600) -> str:
    """Markdown table of the most overestimated wrong and the most underestimated right answers of mixed groups.

    An answer is misjudged by as much as its return is above the lowest right one (if it is wrong) or below the highest
    wrong one (if it is right) to the same prompt.

    Args:
        rollouts: the rollout.
        judged: its answers.
        count: rows of each kind.
        max_chars: longer prompts and answers are cut.

    Returns:
        The table; empty if every group is in order.
    """
    misjudged: list[tuple[float, str, int]] = []
    for group in judged.group_B.unique().tolist():
        in_group = judged.group_B == group
        right, wrong = (judged.before_B[in_group & (judged.outcome_B == outcome)] for outcome in (1, 0))
        if not len(right) or not len(wrong):
            continue
        for i in in_group.nonzero()[:, 0].tolist():
            value = float(judged.before_B[i])
            if int(judged.outcome_B[i]) == CORRECT:
                misjudged.append((float(wrong.max()) - value, "underestimated", i))
            else:
                misjudged.append((value - float(right.min()), "overestimated", i))
    rows = []
    for kind in ("overestimated", "underestimated"):
        worst = sorted((item for item in misjudged if item[1] == kind and item[0] > 0), reverse=True)
        for distance, _, i in worst[:count]:
            row = int(judged.rows[i])
            prompt = rollouts.prompts[row]
            rows.append(
                [
                    kind,
                    f"{distance:.3f}",
                    f"{float(judged.before_B[i]):+.3f} -> {float(judged.after_B[i]):+.3f}",
                    prompt.domain,
                    cell(last_message_text(prompt), max_chars),
                    cell(rollouts.text[row], max_chars),
                    cell(str(prompt.gold), max_chars),
                ]
            )
    if not rows:
        return ""
    return table(["", "by (nats per token)", "return, before -> after", "domain", "prompt", "answer", "gold"], rows)
