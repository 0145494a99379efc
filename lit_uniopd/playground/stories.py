"""Word problems of one and of two steps, for a real model."""

import random
from typing import Any

from lit_uniopd.playground.sums import HELDOUT, NUMBERS, TRAIN

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jack")
THINGS = ("apples", "books", "cards", "coins", "eggs", "marbles", "pencils", "shells", "stamps", "stickers")
EVENTS = {
    "+": ("finds {n} more", "buys {n} more", "gets {n} more from a friend"),
    "-": ("gives away {n}", "loses {n}", "sells {n}"),
}
"""What happens to the things, by what it does to their number."""
CHANGES = range(2, 16)


def make_stories(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on and held-out ones, of one step; no numbers of a held-out one are those of another."""
    return _sides(seed, steps=1)


def make_long_stories(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on and held-out ones, of two steps; no numbers of a held-out one are those of another."""
    return _sides(seed, steps=2)


def _sides(seed: int, steps: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rng = random.Random(f"stories {steps} {seed}")
    stories: dict[str, dict[str, Any]] = {}
    while len(stories) < TRAIN + HELDOUT:
        start = rng.choice(NUMBERS)
        row = _row(rng, start, [(rng.choice("+-"), rng.choice(CHANGES)) for _ in range(steps)])
        if row is not None:
            stories.setdefault(row["id"], row)
    rows = list(stories.values())
    return rows[HELDOUT:], rows[:HELDOUT]


def _row(rng: random.Random, start: int, changes: list[tuple[str, int]]) -> dict[str, Any] | None:
    """None: somebody would give away more than there is."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    number, lines, events = start, [], []
    for sign, n in changes:
        result = number + n if sign == "+" else number - n
        if result < 0:
            return None
        lines.append(f"{number} {sign} {n} = {result}")
        events.append(rng.choice(EVENTS[sign]).format(n=n))
        number = result
    story = f"{name} has {start} {things} and {' and then '.join(events)}."
    return {
        "id": f"{start}" + "".join(f"{sign}{n}" for sign, n in changes),
        "prompt": f"{story} How many {things} does {name} have now?",
        "answer": str(number),
        "solution": f"{', '.join(lines)}, so the result is \\boxed{{{number}}}.",
        "grader": "math",
        "domain": "stories",
    }
