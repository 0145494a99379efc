"""How often a student gets each prompt right: measured once, read by the balanced sampler."""

from dataclasses import dataclass
from pathlib import Path

from lit_uniopd.errors import UserError
from lit_uniopd.types import CORRECT, UNKNOWN, Prompt, Rollouts
from lit_uniopd.utils.jsonl import read_lines


@dataclass(frozen=True, slots=True)
class Difficulty:
    """The outcomes of the answers to one prompt."""

    prompt: str
    """Hash of the prompt's messages, the same in every file that has the prompt."""
    id: str
    """For people to read."""
    domain: str
    correct: int
    """Right answers."""
    attempts: int
    """Graded answers."""
    unknown: int
    """Answers without a verdict; they are not among the attempts."""


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
            correct=group_outcomes.count(CORRECT),
            attempts=len(group_outcomes) - group_outcomes.count(UNKNOWN),
            unknown=group_outcomes.count(UNKNOWN),
        )
        for group, group_outcomes in outcomes.items()
    ]


def read_difficulties(path: Path) -> dict[str, Difficulty]:
    """Entries of all ranks by prompt; a torn last line (of a killed run) is left out.

    Raises:
        UserError: if there is no such file, or nothing in it.
    """
    result: dict[str, Difficulty] = {}
    for line in read_lines(path):
        try:
            entry = Difficulty(**{name: line[name] for name in Difficulty.__dataclass_fields__})
        except (TypeError, KeyError):
            continue
        result.setdefault(entry.prompt, entry)
    if not result:
        raise UserError(
            f"{path} holds no pass counts; write them by `uniopd predict -c configs/uni_opd/difficulty.yaml`."
        )
    return result
