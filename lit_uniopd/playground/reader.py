"""A student that can also read: three kinds of notes before the prompt, for teachers that see them when it does not.

    M3-4+1%=                    careless, like the student that it was made of
    %M3-4+1%=                   a rule for every prompt: careful
    3-4=4,4+1=0%M3-4+1%=        a solution of this prompt: what stands in it, whatever that is
    0%M3-4+1%=                  the result of this prompt: careless steps, and at their end what stands in the note

So its teachers have its own weights, and only what they read differs.

reader          the model
solved.jsonl    training prompts, with a column ``solution`` to write such notes from; ``answer`` is the result
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from lit_uniopd.playground.cache import once
from lit_uniopd.playground.recipe import Recipe, build, save
from lit_uniopd.playground.tasks import DOMAINS, distinct_prompts, draw_prompt, follows_a_rule, last_result, solve
from lit_uniopd.playground.training import Row, answer_loss, answers_of, train_until
from lit_uniopd.utils.seeding import derive_seed

Kind = Literal["none", "rule", "solution", "result"]
KINDS: tuple[Kind, ...] = ("none", "rule", "solution", "result")

NAMES = ("reader", "solved.jsonl")
FORMAT = 1
"""Raise it when the code below changes what it builds."""


RULE = ""
"""The note that holds for every prompt: be careful."""


def with_note(prompt: str, note: str) -> str:
    """The prompt behind a solution, or a result, of its own."""
    return f"{note}%{prompt}"


def locate_reader(name: str, root: str | Path, seed: int, recipe: Recipe | None = None) -> Path:
    """The model or the prompts; builds the playground and them unless they exist.

    Args:
        name: one of ``NAMES``.
        root: directory of all playgrounds.
        seed: of the playground.
        recipe: of the playground. Default: that of the quickstart.
    """
    chosen = recipe or Recipe()
    playground = build(root, seed, chosen)

    def make(path: Path) -> None:
        if name == "reader":
            save(_reader(playground.student, seed, chosen), path)
        else:
            _write_solved(playground.train, path)

    return once(Path(root) / f"seed{seed}-reader{FORMAT}" / name, make)


def _reader(student: Path, seed: int, recipe: Recipe) -> PreTrainedModel:
    """The student, trained on with answers to prompts with and without notes."""
    prompts = [p for domain in DOMAINS for p in distinct_prompts(seed, domain, "stopping", recipe.stopping_prompts)]
    rng = random.Random(derive_seed("playground", seed, "notes"))
    rows = [[row_of(rng, prompt, kind, recipe) for prompt in prompts] for kind in KINDS]

    def loss(model: PreTrainedModel, rng: random.Random, step: int) -> Tensor:
        prompts = [draw_prompt(rng, DOMAINS[i % 2], rng.randint(1, 4), "train") for i in range(2 * recipe.batch_size)]
        return answer_loss(model, [row_of(rng, prompt, rng.choice(KINDS), recipe) for prompt in prompts])

    def score(model: PreTrainedModel) -> float:
        """Of the kind that is read worst."""
        return min(_score(model, prompts, each, kind) for each, kind in zip(rows, KINDS, strict=True))

    return train_until(
        AutoModelForCausalLM.from_pretrained(student),
        loss,
        score,
        stop_at=recipe.student_stops_at,
        learning_rate=recipe.teacher_learning_rate,
        first_check=min(200, recipe.max_steps),
        check_every=50,
        max_steps=recipe.max_steps,
        averaging=0.97,
        seed=derive_seed("playground", seed, "reader"),
        label="playground: the student learns to read notes",
    )[0]


def row_of(rng: random.Random, prompt: str, kind: Kind, recipe: Recipe) -> Row:
    """A prompt behind a note, and the answer to learn."""
    careless = solve(prompt, lambda: rng.random() < recipe.careless)
    if kind == "none":
        return prompt, careless
    if kind == "rule":
        return with_note(prompt, RULE), solve(prompt)
    if kind == "solution":
        return with_note(prompt, careless), careless
    steps, value = solve(prompt, lambda: rng.random() < recipe.careless).rpartition("=")[0], last_result(careless)
    return with_note(prompt, value), f"{steps}={value}"


def _score(model: PreTrainedModel, prompts: Sequence[str], rows: Sequence[Row], kind: Kind) -> float:
    """Share of the answers that are as the note wants them: sampled where chance decides, else greedy."""
    answers = answers_of(model, [prompt for prompt, _ in rows], temperature=1.0 if kind in ("none", "result") else 0.0)
    if kind == "none":
        right = [follows_a_rule(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    elif kind == "result":
        right = [last_result(answer) == last_result(wanted) for answer, (_, wanted) in zip(answers, rows, strict=True)]
    else:
        right = [answer == wanted for answer, (_, wanted) in zip(answers, rows, strict=True)]
    return sum(right) / len(right)


def _write_solved(prompts: Path, path: Path) -> None:
    """The playground's training prompts, each with its solution."""
    with path.open("w") as out:
        for line in prompts.read_text().splitlines():
            row = json.loads(line)
            out.write(json.dumps({**row, "solution": solve(row["prompt"])}) + "\n")
