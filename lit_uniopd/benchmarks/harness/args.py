"""The options of lm-eval's tasks. Without lm-eval, so that every command can read them."""

from dataclasses import dataclass

PREFIX = "lm_eval:"
"""Begins the names of lm-eval's tasks, groups and tags, and of files of tasks."""


@dataclass(frozen=True)
class HarnessArgs:
    """How lm-eval's tasks are asked; named as lm-eval's own options, and with its defaults."""

    include_path: str | None = None
    """Folder of further task files of your own."""
    apply_chat_template: bool = False
    """Ask in the model's chat template, which chat models need. False, lm-eval's default: plain text."""
    fewshot_as_multiturn: bool = True
    """In the chat template, examples are turns of their own; False: all is one turn."""
    system_instruction: str | None = None
    """Stands before the description of each task."""
    num_fewshot: int | None = None
    """Examples before each question; null: as each task says. Tasks that say 0 keep it."""
    fewshot_random_seed: int = 1234
    """Of the choice of examples."""
