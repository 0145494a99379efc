"""How often a student gets each prompt right: measured once, read by the balanced sampler."""

from dataclasses import dataclass
from pathlib import Path

from lit_uniopd.errors import UserError
from lit_uniopd.types import CORRECT, UNKNOWN, Prompt, Rollouts
from lit_uniopd.utils.jsonl import read_lines


@dataclass(frozen=True, slots=True)
class Difficulty:
    """What became of the answers to one prompt."""

    prompt: str
    """Hash of the prompt's messages: it is the same in whatever file the prompt lies."""
    id: str
    """For people."""
    domain: str
    correct: int
    """Right answers."""
    attempts: int
    """Answers with a verdict."""
    unknown: int
    """Answers without one; they count for nothing."""


def difficulties(rollouts: Rollouts) -> list[Difficulty]:
    """One entry per group, in the order of the groups."""
    outcomes: dict[int, list[int]] = {}
    prompts: dict[int, Prompt] = {}
    for prompt, group, outcome in zip(
        rollouts.prompts, rollouts.group_B.tolist(), rollouts.outcome_B.tolist(), strict=True
    ):
        outcomes.setdefault(group, []).append(outcome)
        prompts[group] = prompt
    return [
        Difficulty(
            prompt=prompts[group].key,
            id=prompts[group].id,
            domain=prompts[group].domain,
            correct=found.count(CORRECT),
            attempts=len(found) - found.count(UNKNOWN),
            unknown=found.count(UNKNOWN),
        )
        for group, found in outcomes.items()
    ]


def read_difficulties(path: Path) -> dict[str, Difficulty]:
    """Entries of all ranks by prompt; a torn last line (of a killed run) is left out.

    Raises:
        UserError: if there is no such file, or nothing in it.
    """
    found: dict[str, Difficulty] = {}
    for line in read_lines(path):
        try:
            entry = Difficulty(**line)
        except TypeError:
            continue
        found.setdefault(entry.prompt, entry)
    if not found:
        raise UserError(
            f"{path} holds no pass counts; write them by `uniopd predict -c configs/uni_opd/difficulty.yaml`."
        )
    return found
