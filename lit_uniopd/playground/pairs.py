"""Preference pairs of the playground: a right answer against a careless one, judged by the share of right steps."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_uniopd.playground.tasks import solve
from lit_uniopd.utils.jsonl import numbered_lines

CARELESS = 0.4
"""Share of steps in which the writer of the rejected answer confuses the operator."""
FULL_SCORE = 10.0


def make_pairs(prompts: Path, out: Path, seed: int) -> None:
    """Write a pair for each prompt of a file in which carelessness can show.

    Args:
        prompts: JSONL of the playground.
        out: JSONL as ``PreferenceDataModule`` reads it.
        seed: of the mistakes.
    """
    rng = random.Random(f"{seed} pairs")
    rows = [json.loads(line) for _, line in numbered_lines(prompts)]
    out.write_text("".join(json.dumps(pair) + "\n" for pair in _pairs(rows, rng)))


def _pairs(rows: list[dict[str, Any]], rng: random.Random) -> Iterator[dict[str, Any]]:
    for row in rows:
        chosen = solve(row["prompt"])
        tries = (solve(row["prompt"], lambda: rng.random() < CARELESS) for _ in range(20))
        rejected = next((answer for answer in tries if answer != chosen), None)
        if rejected is None:  # no operator of this prompt can be confused
            continue
        steps = list(zip(chosen.split(","), rejected.split(","), strict=True))
        yield {
            "id": row["id"],
            "domain": row["domain"],
            "prompt": row["prompt"],
            "chosen": chosen,
            "rejected": rejected,
            "score_chosen": FULL_SCORE,
            "score_rejected": round(FULL_SCORE * sum(good == bad for good, bad in steps) / len(steps), 2),
        }
