"""`Validation` alone: a scripted model behind it, no module and no Lightning loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import prompts, trainer
from torch import nn

from lit_uniopd.benchmarks import conversation
from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.errors import UserError
from lit_uniopd.modules.validation import Validation
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.rewards import GraderPool
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.types import Prompt, PromptBatch


class Scripted:
    """Answers every prompt with its number; notes whether its weights were gathered meanwhile."""

    def __init__(self, path: str) -> None:
        self.model = nn.Linear(2, 2)
        self.args = PolicyArgs(path=path)
        self.processor = None
        self.is_gathered = False
        self.gathered_while_writing: list[bool] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        self.is_gathered = True
        yield
        self.is_gathered = False

    def write(self, _policy: Any, batch: Any, args: Any, **_: Any) -> Any:
        self.gathered_while_writing.append(self.is_gathered)
        text = [prompt.id.rpartition("p")[2] for prompt in batch]
        return SimpleNamespace(text=text, finish=["stop"] * len(text), lengths_B=torch.ones(len(text)))


class Models:
    """One policy for everything."""

    model_name = "scripted"

    def __init__(self, policy: Scripted) -> None:
        self.policy = policy

    @property
    def evaluated_policies(self) -> list[Any]:
        return [self.policy]

    @property
    def evaluated_args(self) -> list[tuple[PolicyArgs, str]]:
        return [(self.policy.args, "model.policy")]

    def policy_args_for(self, benchmark: Benchmark) -> tuple[PolicyArgs, str]:
        return self.policy.args, "model.policy"

    def policy_for(self, benchmark: Benchmark) -> Any:
        return self.policy


@pytest.fixture
def graders():
    with GraderPool(workers=1) as pool:
        yield pool


def trainer_with(tmp_path: Any, **data: Any) -> Any:
    made: Any = trainer(tmp_path)
    made.datamodule = SimpleNamespace(**data)
    return made


def test_heldout_prompts_are_answered_graded_and_averaged_over_domains(model_dirs, tmp_path, graders, monkeypatch):
    heldout = [*prompts(4), Prompt(id="p9", messages=prompts(1)[0].messages, gold="8", domain="math", grader="exact")]
    policy = Scripted(model_dirs["student"])
    monkeypatch.setattr(conversation, "write_answers", policy.write)
    validation = Validation(Models(policy), SamplingArgs(n=1, temperature=0.0), graders)
    validation.setup(trainer_with(tmp_path, val_prompts=heldout), "fit")
    validation.begin(step=3)
    for domain in ("math", "code"):
        validation.answer(PromptBatch([prompt for prompt in heldout if prompt.domain == domain]))
    validation.answer(PromptBatch([]))
    result = validation.finish()
    assert result is not None
    assert result is validation.result
    scores, headline = validation.scores(result)
    assert {tag: score for tag, score in scores.items() if tag.endswith("/accuracy")} == {
        "val/math/accuracy": pytest.approx(2 / 3),  # p0 and p2 say their gold, p9 does not
        "val/code/accuracy": 1.0,
    }
    assert headline == {"val/accuracy": pytest.approx((2 / 3 + 1) / 2)}
    assert policy.gathered_while_writing
    assert all(policy.gathered_while_writing)
    assert not policy.is_gathered


def test_prompts_that_are_for_a_loss_are_not_answered(model_dirs, tmp_path, graders):
    policy = Scripted(model_dirs["student"])
    validation = Validation(Models(policy), SamplingArgs(n=1), graders, answers_heldout=False)
    validation.setup(trainer_with(tmp_path, val_prompts=prompts(4)), "fit")
    validation.begin(step=0)
    validation.answer(PromptBatch(prompts(4)))
    assert validation.finish() is None
    assert not policy.gathered_while_writing


def test_a_benchmark_with_pictures_is_refused_for_a_text_model(model_dirs, tmp_path, graders):
    picture = Prompt(id="p0", messages=prompts(1)[0].messages, gold="0", grader="exact", images=("a.png",))
    validation = Validation(Models(Scripted(model_dirs["student"])), SamplingArgs(n=1), graders)
    with pytest.raises(UserError, match=r"has pictures, which --model.policy.path .* cannot read"):
        validation.setup(trainer_with(tmp_path, val_prompts=[picture]), "validate")
