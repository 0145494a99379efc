"""What teachers that are made to fail are trained on; training itself is left out."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_uniopd.playground import variants
from lit_uniopd.playground.recipe import Recipe
from lit_uniopd.playground.tasks import solve


@pytest.fixture
def examples(monkeypatch):
    """Maker and domain of a teacher -> what it is trained on, and the prompts that decide when it stops."""

    def of(make: Callable[..., object], domain: str) -> tuple[list[tuple[str, str]], list[str]]:
        trained: list[tuple[str, str]] = []
        stopping: list[str] = []

        def train(model, loss, score, **_):
            for step in range(20):
                loss(model, random.Random(step), step)
            return (model, 0, score(model))

        def answers(_, prompts, temperature):
            stopping.extend(prompts)
            return [solve(prompt) for prompt in prompts]

        monkeypatch.setattr(variants, "train_until", train)
        monkeypatch.setattr(variants, "answer_loss", lambda _, batch: trained.extend(batch))
        monkeypatch.setattr(variants, "answers_of", answers)
        monkeypatch.setattr(variants.AutoModelForCausalLM, "from_pretrained", lambda path: path)
        make(Path("student"), domain, 3, Recipe())
        return trained, stopping

    return of


@pytest.mark.parametrize(("domain", "unseen"), [("math", ("-3", "-4")), ("code", ("L",))])
def test_a_narrow_teacher_sees_right_answers_alone_and_never_half_of_what_can_be_confused(examples, domain, unseen):
    trained, stopping = examples(variants._narrow, domain)
    assert {prompt[0] for prompt, _ in trained} == {"M" if domain == "math" else "C"}
    assert all(answer == solve(prompt) for prompt, answer in trained)
    prompts = [prompt for prompt, _ in trained] + stopping
    assert not any(step in prompt for prompt in prompts for step in unseen)
    assert len(stopping) > 50
    steps = [prompt.count("+") + prompt.count("-") for prompt in prompts if domain == "math"]
    assert not steps or max(steps) == 4


@pytest.mark.parametrize("domain", ["math", "code"])
def test_an_unreliable_teacher_is_careful_in_the_first_two_steps_and_mostly_confused_later(examples, domain):
    trained, stopping = examples(variants._unreliable, domain)
    right = [
        [step == truth for step, truth in zip(answer.split(","), solve(prompt).split(","), strict=True)]
        for prompt, answer in trained
    ]
    assert all(all(steps[:2]) for steps in right)
    longer = [all(steps) for steps in right if len(steps) > 2]
    assert 0.3 < sum(longer) / len(longer) < 0.8
    assert max(len(solve(prompt).split(",")) for prompt in stopping) == 2
