"""Ranks that each write a part of every group; two real ones train so in tests/distributed/test_scaling.py."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import Prompts, module, prompts, trainer

from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd import writing_teams
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.modules.opd.writing_teams import Team, bring_home, write_part
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs, write_answers
from lit_uniopd.sampling.args import ServerArgs
from lit_uniopd.types import Rollouts


def fake_module(rank: int, ranks: int, split: int, policy: Any = None, writer: str = "student") -> Any:
    return SimpleNamespace(
        trainer=SimpleNamespace(world_size=ranks),
        global_rank=rank,
        split_groups=split,
        phase=SimpleNamespace(writer=writer),
        policy=policy,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize(
    ("rank", "ranks", "split", "members", "part"),
    [
        (0, 1, 8, [0], 0),
        (1, 2, 8, [0, 1], 1),
        (5, 8, 4, [1, 3, 5, 7], 2),
        (5, 6, 4, [2, 5], 1),  # two of four: a third of six has none left
        (5, 7, 4, [5], 0),
        (5, 8, 1, [5], 0),
    ],
)
def test_teams_are_as_large_as_divides_both(rank, ranks, split, members, part):
    team = Team.of(fake_module(rank, ranks, split))
    assert (list(team.members), team.part) == (members, part)
    assert list(Team.of(fake_module(rank, ranks, split, writer="teacher")).members) == [rank]


class Mail:
    """Ranks that are threads; objects travel between them as between processes."""

    def __init__(self, ranks: int) -> None:
        self.sent: dict[int, list[bytes]] = {}
        self.barrier = threading.Barrier(ranks)

    def exchange(self, module: Any, parcels: list[Any]) -> list[Any]:
        self.sent[module.global_rank] = [pickle.dumps(parcel) for parcel in parcels]
        self.barrier.wait()
        received = [pickle.loads(self.sent[rank][module.global_rank]) for rank in sorted(self.sent)]
        self.barrier.wait()
        return received


def test_each_rank_gets_what_it_would_have_written_itself(model_dirs, monkeypatch):
    """Four ranks in two teams; a prompt has four answers, two of each member."""
    ranks, asked, sampling = 4, prompts(8), SamplingArgs(n=4, max_new_tokens=6)
    mail, written = Mail(ranks), dict[int, Rollouts]()
    policies = [Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=False).eval() for _ in range(ranks)]
    monkeypatch.setattr(writing_teams, "exchange", mail.exchange)

    def answered(rank: int) -> Rollouts:
        fake = fake_module(rank, ranks, 2, policies[rank])
        written[rank] = write_part(fake, asked[rank::ranks], sampling, seed=5)
        return bring_home(fake, asked[rank::ranks], written[rank])

    with ThreadPoolExecutor(ranks) as pool:
        home = list(pool.map(answered, range(ranks)))
    assert written[1].group_B.tolist() == written[3].group_B.tolist() == [1, 1, 5, 5, 3, 3, 7, 7]
    for rank, rollouts in enumerate(home):
        alone = write_answers(policies[rank], asked[rank::ranks], sampling, seed=5, keys=[rank, rank + ranks])
        assert torch.equal(rollouts.tokens_BT, alone.tokens_BT)
        torch.testing.assert_close(rollouts.student_logps_BT, alone.student_logps_BT, atol=1e-5, rtol=0)
        for name in ("prompt_tokens", "finish", "text"):
            assert getattr(rollouts, name) == getattr(alone, name)
        assert torch.equal(rollouts.group_B, alone.group_B)
        assert all(mine is its for mine, its in zip(rollouts.prompts, alone.prompts, strict=True))


def test_the_memory_plan_counts_the_prompts_of_the_team(model_dirs, tmp_path, monkeypatch):
    model = module(model_dirs, sampling=SamplingArgs(n=4, max_new_tokens=6), split_groups=2)
    trainer(tmp_path, max_steps=1).fit(model, Prompts(prompts(4)))
    assert model.workload().prompts == 4
    monkeypatch.setattr(type(model.trainer), "world_size", 2)
    assert (model.workload().prompts, model.workload().rows) == (8, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"split_groups": 2},
            r"^--model\.split_groups 2 does not divide --model\.sampling\.n 3; give a divisor\.$",
        ),
        ({"split_groups": 0}, r"^--model\.split_groups 0 does not divide"),
        (
            {"split_groups": 3, "writer": "teacher", "loss": LossArgs(kind="forward_kl")},
            r"^--model\.split_groups divides what the student writes; leave it out with --model\.writer teacher\.$",
        ),
        (
            {"split_groups": 3, "sampling": SamplingArgs(n=3, server=ServerArgs(["http://127.0.0.1:1"]), lag=1)},
            r"^--model\.split_groups shares out what ranks wait for, .* leave one of them out\.$",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(model_dirs, options, message):
    with pytest.raises(UserError, match=message):
        module(model_dirs, **options)
