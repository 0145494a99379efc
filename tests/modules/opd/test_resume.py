"""`UnfinishedRollout` alone: what a stopped run keeps of a rollout, and who may take it up."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from callbacks_data import rollouts

from lit_uniopd.modules.opd.resume import ScoredRollout, UnfinishedRollout
from lit_uniopd.policy.chat_template import EncodedPrompt
from lit_uniopd.types import Prompt, PromptBatch


class Policy:
    """Encodes every prompt as token 1, as `callbacks_data` has it."""

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        return EncodedPrompt([1])


RANK: Any = SimpleNamespace(global_rank=0, device=torch.device("cpu"), trainer=SimpleNamespace(world_size=1))
POLICY: Any = Policy()


@pytest.fixture
def batch() -> PromptBatch:
    return PromptBatch([Prompt(id=str(i), messages=({"role": "user", "content": f"{i}"},)) for i in range(2)])


@pytest.fixture
def scored(batch) -> ScoredRollout:
    answers = rollouts([[0.1, 0.2], [0.3], [0.4]], [1, 0, 1], [0, 0, 1])
    answers.prompts = [batch[group] for group in answers.group_B.tolist()]
    scored = ScoredRollout(answers, [[0, 2], [1]], done=1)
    scored.trained.add("train/loss", 3.0, 2.0)
    answers.teacher_top_ids = [torch.full((n, 4), n, dtype=torch.int32) for n in (2, 1, 1)]
    answers.teacher_top_logps = [torch.full((n, 4), -2.0) for n in (2, 1, 1)]
    return scored


def stopped(scored: ScoredRollout, batch: PromptBatch) -> list[dict[str, Any]]:
    """What a checkpoint of a run that was stopped in the second update holds."""
    unfinished = UnfinishedRollout()
    unfinished.keep(scored, batch.prompts)
    unfinished.freeze(RANK)
    return unfinished.states


def test_the_same_batch_takes_up_answers_statistics_and_random_numbers(scored, batch):
    torch.manual_seed(3)
    states = stopped(scored, batch)
    expected = torch.rand(4)
    resumed = UnfinishedRollout()
    resumed.states = states
    assert resumed.place() == " (1 of 2 updates of its rollout made)"
    again = resumed.take_up(RANK, batch, POLICY)
    assert again is not None
    assert (again.updates, again.done, again.trained.state()) == ([[0, 2], [1]], 1, {"train/loss": [3.0, 2.0]})
    assert again.rollouts.prompts == scored.rollouts.prompts
    assert again.rollouts.grades == scored.rollouts.grades
    for name in ("tokens_BT", "mask_BT", "advantages_BT", "outcome_B", "keep_B", "group_B"):
        assert torch.equal(getattr(again.rollouts, name), getattr(scored.rollouts, name))
    for name in ("teacher_top_ids", "teacher_top_logps"):
        assert all(map(torch.equal, getattr(again.rollouts, name), getattr(scored.rollouts, name)))
    assert torch.equal(torch.rand(4), expected)
    assert resumed.place() == ""
    assert resumed.take_up(RANK, batch, POLICY) is None  # once


def test_states_can_be_saved_without_pickles(scored, batch, tmp_path):
    torch.save(stopped(scored, batch), tmp_path / "states.ckpt")
    assert torch.load(tmp_path / "states.ckpt", weights_only=True)[0]["done"] == 1


@pytest.mark.parametrize("other", ["prompts", "ranks"])
def test_others_write_anew(scored, batch, other):
    resumed = UnfinishedRollout()
    resumed.states = stopped(scored, batch) * (2 if other == "ranks" else 1)
    if other == "prompts":
        batch = PromptBatch([replace(prompt, messages=({"role": "user", "content": "?"},)) for prompt in batch])
    with pytest.warns(UserWarning, match="after 1 of 2 updates of a rollout, .* are written anew"):
        assert resumed.take_up(RANK, batch, POLICY) is None


def test_between_two_steps_nothing_is_kept(scored, batch):
    unfinished = UnfinishedRollout()
    unfinished.freeze(RANK)
    unfinished.keep(scored, batch.prompts)
    unfinished.clear()
    unfinished.freeze(RANK)
    assert unfinished.states == []
    assert unfinished.place() == ""
