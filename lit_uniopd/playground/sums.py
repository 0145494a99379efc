"""Sums of two numbers, small and of two digits, as questions in plain English, for a real model."""

import random
from typing import Any

NUMBERS = range(2, 21)
TWO_DIGITS = range(21, 100)
TRAIN, HELDOUT = 313, 48
"""Questions of each side."""


def make_sums(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on and held-out ones: all sums of two numbers, 5 + 3 on the same side as 3 + 5.

    Args:
        seed: of the division.
    """
    pairs = [(a, b) for a in NUMBERS for b in NUMBERS if a <= b]
    rng = random.Random(f"sums {seed}")
    rng.shuffle(pairs)
    train: list[tuple[int, int]] = []
    heldout: list[tuple[int, int]] = []
    for a, b in pairs:
        both = sorted({(a, b), (b, a)})
        (heldout if len(heldout) + len(both) <= HELDOUT else train).extend(both)
    rng.shuffle(train)
    rng.shuffle(heldout)
    return [_row(a, b) for a, b in train], [_row(a, b) for a, b in heldout]


def make_large_sums(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on and held-out ones: sums of two numbers of two digits, no pair twice in any order.

    Args:
        seed: of the choice.
    """
    rng = random.Random(f"large sums {seed}")
    pairs = rng.sample([(a, b) for a in TWO_DIGITS for b in TWO_DIGITS if a <= b], TRAIN + HELDOUT)
    rows = [_row(*rng.sample(pair, 2)) for pair in pairs]
    return rows[HELDOUT:], rows[:HELDOUT]


def _row(a: int, b: int) -> dict[str, Any]:
    question = {"id": f"{a}+{b}", "prompt": f"What is {a} + {b}?", "answer": str(a + b)}
    solution = f"{a} + {b} = {a + b}, so the result is \\boxed{{{a + b}}}."
    return question | {"solution": solution, "grader": "math", "domain": "sums"}
