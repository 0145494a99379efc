"""The options of the harnesses' tasks. Without lm-eval and lmms-eval, so that every command can read them."""

from dataclasses import dataclass

PREFIX = "lm_eval:"
"""Begins the names of lm-eval's tasks, groups and tags, and of files of tasks."""
LMMS_PREFIX = "lmms_eval:"
"""Begins the names of lmms-eval's tasks, groups and tags."""
PREFIXES = (PREFIX, LMMS_PREFIX)


@dataclass(frozen=True)
class HarnessArgs:
    """How the tasks of lm-eval and lmms-eval are asked; named as their own options, and with their defaults."""

    include_path: str | None = None
    """Folder of further task files of your own."""
    apply_chat_template: bool = False
    """Ask in the model's chat template, which chat models need. False, lm-eval's default: plain text. lmms-eval's
    tasks are always asked in it."""
    fewshot_as_multiturn: bool = True
    """In the chat template, examples are turns of their own; False: all is one turn. Of lm-eval's tasks."""
    system_instruction: str | None = None
    """Stands before the description of each task of lm-eval; system message of lmms-eval's. For benchmarks of ours that
    ask with lmms-eval's system message: that message, where lmms-eval is not installed."""
    num_fewshot: int | None = None
    """Examples before each question; null: as each task says. Tasks that say 0 keep it."""
    fewshot_random_seed: int = 1234
    """Of the choice of examples."""
    model_name: str | None = None
    """lmms-eval's name of the model (`qwen3_vl`), for which some of its tasks have a wording of their own."""
