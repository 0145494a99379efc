"""The grader of the playground's two tasks."""

import re
from collections.abc import Mapping
from typing import Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import gold_text, unknown, verdict

_LAST_STEP = re.compile(r"[^=,]+=([^=,]+)")


def grade_playground(gold: Any, prediction: str, row: Mapping[str, Any] | None = None) -> Grade:
    """Compare the result of the last step with the gold answer, to the letter.

    Args:
        gold: the last result.
        prediction: steps such as ``3-5=5,5+2=0``; only what follows the last step's one ``=`` counts, so an answer
            that trails off or offers two results is wrong.
        row: Not used.
    """
    expected = gold_text(gold)
    if expected is None:
        return unknown("no_gold")
    match = _LAST_STEP.fullmatch(prediction.rpartition(",")[2])
    if match is None:
        return Grade(False, 0.0, reason="no_answer")
    return verdict(match[1] == expected, match[1])
