"""Questions for a real model, in files of training and of held-out rows.

A row has its gold ``answer``, which a grader compares, and a ``solution``, the whole text that an expert learns.
"""

from pathlib import Path

from lit_uniopd.playground.cache import once
from lit_uniopd.playground.lists import make_lists
from lit_uniopd.playground.stories import make_long_stories, make_stories
from lit_uniopd.playground.sums import make_large_sums, make_sums
from lit_uniopd.utils.jsonl import write_lines

KINDS = {
    **{"sums": make_sums, "large_sums": make_large_sums, "lists": make_lists},
    **{"stories": make_stories, "long_stories": make_long_stories},
}
"""Of questions -> from a seed to the rows to train on and the held-out ones."""
QUESTIONS = tuple(f"{side}{kind}.jsonl" for kind in KINDS for side in ("", "heldout_"))
FORMAT = 2
"""Raise it when rows change; files of another format are left alone."""


def locate_questions(name: str, root: str | Path, seed: int) -> Path:
    """The file of some questions, written at the first call.

    Args:
        name: one of ``QUESTIONS``.
        root: directory of all playgrounds.
        seed: of the rows, and of which are held out.
    """
    heldout = name.startswith("heldout_")
    train_rows, heldout_rows = KINDS[name.removeprefix("heldout_").removesuffix(".jsonl")](seed)
    rows = heldout_rows if heldout else train_rows
    return once(Path(root) / f"questions{FORMAT}_seed{seed}" / name, lambda file: write_lines(file, rows))
