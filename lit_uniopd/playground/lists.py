"""Words to be written as a JSON list, as questions in plain English, for a real model."""

import json
import random
from typing import Any

WORDS = (
    *("apple", "bread", "chair", "cloud", "door", "eagle", "fire", "garden", "hand", "island"),
    *("jacket", "king", "lake", "moon", "night", "ocean", "paper", "queen", "river", "stone"),
    *("table", "uncle", "village", "water", "winter", "yellow", "book", "dog", "green", "horse"),
)
LENGTHS = (2, 3, 4)
TRAIN, HELDOUT = 313, 48
"""Questions of each side, as many as there are sums."""


def make_lists(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on and held-out ones; the words of no list are those of another, in any order.

    Args:
        seed: of the lists.
    """
    rng = random.Random(f"lists {seed}")
    chosen: dict[frozenset[str], list[str]] = {}
    while len(chosen) < TRAIN + HELDOUT:
        words = rng.sample(WORDS, LENGTHS[len(chosen) % len(LENGTHS)])
        chosen.setdefault(frozenset(words), words)
    rows = [_row(words) for words in chosen.values()]
    return rows[HELDOUT:], rows[:HELDOUT]


def _row(words: list[str]) -> dict[str, Any]:
    question = {"id": "-".join(words), "prompt": f"Write these words as a JSON list: {', '.join(words)}"}
    return question | {"answer": json.dumps(words), "solution": json.dumps(words), "grader": "exact", "domain": "lists"}
