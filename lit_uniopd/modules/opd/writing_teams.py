"""Ranks that write their answers together, each a part of every group, so that none has all the long ones.

Answers to one prompt are alike in length: ranks that write whole groups wait for the one with the longest prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_uniopd.distributed.collectives import exchange
from lit_uniopd.modules.opd.dispatch import group_ids, without_vision
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.types import Prompt, Rollouts


@dataclass(frozen=True)
class Team:
    """Ranks whose prompts are answered by all of them."""

    members: range
    """The ranks; equally many in every team."""
    part: int
    """Which of its equal parts of a group's answers this rank writes: its place among the members."""

    @classmethod
    def of(cls, module: Any) -> "Team":
        """The team of this rank: `split_groups` ranks, or as many as divide both that and all ranks.

        Args:
            module: ``UniOPD``; where teachers write, each rank is a team of its own.
        """
        ranks, size = module.trainer.world_size, team_size(module)
        part, first = divmod(module.global_rank, ranks // size)
        return cls(range(first, ranks, ranks // size), part)


def team_size(module: Any) -> int:
    """Members of every team; needs no rank, so plans can ask."""
    return math.gcd(module.split_groups, module.trainer.world_size) if module.phase.writer == "student" else 1


def member_sampling(module: Any, sampling: SamplingArgs) -> SamplingArgs:
    """Options with the number of answers that one member writes to a prompt."""
    return replace(sampling, n=sampling.n // team_size(module))


def write_part(module: Any, prompts: Sequence[Prompt], sampling: SamplingArgs, *, seed: int) -> Rollouts:
    """Write this rank's part of the answers to its team's prompts, or all to its own. A collective call.

    Args:
        module: ``UniOPD``.
        prompts: of this rank; equally many on each.
        sampling: how all answers to a prompt are written.
        seed: of the sampling noise, the same on every rank.
    """
    team, ranks = Team.of(module), module.trainer.world_size
    keys = group_ids(module, len(prompts))
    if module.phase.writer == "teacher":
        return module.teachers.write(module.policy, prompts, sampling, seed=seed, keys=keys)
    if len(team.members) > 1:
        batches = exchange(module, [list(prompts) if rank in team.members else [] for rank in range(ranks)])
        keys = [rank + i * ranks for rank, batch in enumerate(batches) for i in range(len(batch))]
        prompts = [prompt for batch in batches for prompt in batch]
    share = member_sampling(module, sampling)
    return write_answers(module.policy, prompts, share, seed=seed, keys=keys, first=team.part * share.n)


def bring_home(module: Any, prompts: Sequence[Prompt], rollouts: Rollouts) -> Rollouts:
    """Exchange parts of groups, so that each rank has what it would have written by itself. A collective call.

    Args:
        module: ``UniOPD``.
        prompts: of this rank.
        rollouts: what ``write_part`` wrote, neither graded nor scored.

    Returns:
        All answers to the prompts, in the order of both.
    """
    team, ranks = Team.of(module), module.trainer.world_size
    if len(team.members) == 1:
        return rollouts
    vision = dict(zip(rollouts.group_B.tolist(), rollouts.vision, strict=True))
    home_B = (rollouts.group_B % ranks).cpu()
    parcels = [
        without_vision(rollouts[home_B == rank].to("cpu")) if rank in team.members else None for rank in range(ranks)
    ]
    parts = Rollouts.cat([part.to(module.device) for part in exchange(module, parcels) if part is not None])
    home = parts[parts.group_B.argsort(stable=True)]
    groups = home.group_B.tolist()
    home.prompts = [prompts[group // ranks] for group in groups]
    home.vision = [vision[group] for group in groups]
    return home
