"""Sums of two numbers as questions in plain English, for a real model."""

import random
from pathlib import Path
from typing import Any

from lit_uniopd.playground.cache import once
from lit_uniopd.utils.jsonl import write_lines

NUMBERS = range(2, 21)
HELDOUT = 48
"""Questions that are kept from training, of 361."""
SUMS = ("sums.jsonl", "heldout_sums.jsonl")


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


def locate_sums(name: str, root: str | Path, seed: int) -> Path:
    """The file ``sums.jsonl`` or ``heldout_sums.jsonl``, written at the first call.

    Args:
        name: one of ``SUMS``.
        root: directory of all playgrounds.
        seed: of the division.
    """
    rows = make_sums(seed)[SUMS.index(name)]
    return once(Path(root) / f"sums_seed{seed}" / name, lambda file: write_lines(file, rows))


def _row(a: int, b: int) -> dict[str, Any]:
    return {"id": f"{a}+{b}", "prompt": f"What is {a} + {b}?", "answer": str(a + b), "grader": "math", "domain": "sums"}
