"""Arena-Hard's style control: the win rate of a model whose answers look like the baseline's.

A logistic regression explains the outcomes by the model (the Bradley-Terry term) and by differences in length and in
headers, lists and bold text. The features are those of arena-hard-auto (``show_result.py``, ``utils/math_utils.py``,
commit 196f6b8), with two differences. There all models of a leaderboard are fitted together, and features are centred
over them; of one model's games this would take out nothing, so here 0 is the baseline's own style. And tokens are
counted by a rule, as words and signs, not by OpenAI's tokenizer.
"""

import re
from collections.abc import Sequence

import numpy as np

from lit_uniopd.benchmarks.judging.logistic import Array, fit_logistic, sigmoid

FEATURES = ("length", "headers", "lists", "bold")
_CODE = re.compile(r"```[^`]*```")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
_ITEM = re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


def style_of(answer: str) -> tuple[int, ...]:
    r"""Tokens of an answer, and headers, list items and bold texts outside of its blocks of code.

    Example:
        >>> style_of("# Title\n\n- **one**\n- two")
        (10, 1, 2, 1)
    """
    prose = _CODE.sub("", answer)
    return len(_TOKEN.findall(answer)), *(len(kind.findall(prose)) for kind in (_HEADER, _ITEM, _BOLD))


def style_differences(model_answers: Sequence[str], baseline_answers: Sequence[str]) -> Array:
    """How the model's answers differ from the baseline's in style: ``[N, 4]``, in units of the standard deviation.

    Lengths by the difference over the sum; the others are first divided by the length. What does not differ between
    questions cannot be told from the model and is 0.
    """
    model_N4, baseline_N4 = (np.array([style_of(a) for a in side], float) for side in (model_answers, baseline_answers))
    lengths = np.stack([model_N4[:, 0], baseline_N4[:, 0]])
    differences = np.zeros_like(model_N4)
    differences[:, 0] = (lengths[0] - lengths[1]) / np.maximum(lengths.sum(axis=0), 1)
    model, baseline = (side[:, 1:] / (side[:, :1] + 1) for side in (model_N4, baseline_N4))
    differences[:, 1:] = (model - baseline) / (model + baseline + 1)
    spread = differences.std(axis=0, ddof=1) if len(differences) > 1 else np.zeros(len(FEATURES))
    return np.where(spread > 1e-12, differences / np.where(spread > 1e-12, spread, 1.0), 0.0)


def controlled_rate(won_N: Array, weight_N: Array, style_N4: Array) -> tuple[float, Array]:
    """Win rate at the baseline's style, and the coefficients of the features.

    Args:
        won_N: share of each game that the model has won, in [0, 1].
        weight_N: of the games.
        style_N4: see ``style_differences``.
    """
    coefficients = fit_logistic(np.concatenate([np.ones((len(won_N), 1)), style_N4], axis=1), won_N, weight_N)
    return float(sigmoid(coefficients[:1])[0]), coefficients[1:]
