"""Builds the playground once: two experts, a weak student, prompts; cached by seed and recipe."""

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from lit_uniopd.playground.cache import cached
from lit_uniopd.playground.models import make_model, make_tokenizer
from lit_uniopd.playground.tasks import (
    DOMAINS,
    Domain,
    Split,
    distinct_prompts,
    draw_prompt,
    follows_a_rule,
    result,
    solve,
)
from lit_uniopd.playground.training import answer_loss, answers_of, train_until
from lit_uniopd.playground.untrained import write_tiny_text, write_tiny_vision
from lit_uniopd.utils.seeding import derive_seed

ROOT = "runs/playground"
UNTRAINED = {"tiny_text": write_tiny_text, "tiny_vision": write_tiny_vision}
"""Models with random weights: they show that a run works, not that it learns."""
FORMAT = 2
"""Raise it when the code below changes what it builds; caches of another format are built anew."""

PAIRS = {"pairs.jsonl": "train.jsonl", "heldout_pairs.jsonl": "heldout.jsonl"}
"""File of preference pairs -> file of their prompts."""


@dataclass(frozen=True)
class Recipe:
    """How the models are made. The defaults are those of the quickstart, measured in docs/playground.md."""

    width: int = 96
    """Hidden width; must be a multiple of 8."""
    layers: int = 2
    """Transformer layers."""
    batch_size: int = 32
    """Answers per pre-training step."""
    careless: float = 0.6
    """Share of the steps in the student's training answers that confuse the operator."""
    warmup_steps: int = 120
    """Steps at the start of pre-training with careful answers to one-step prompts, twice as many in a batch: each
    operator's rule is grasped before it is confused."""
    student_stops_at: float = 0.9
    """Share of sampled answers to stopping prompts in which every step follows the right or the confused rule. Sampled,
    because greedy answers look fluent before the rarer rule is known, and a student cannot learn on-policy what it
    never writes."""
    teacher_stops_at: float = 0.95
    """Accuracy of an expert's greedy answers to stopping prompts of its domain."""
    student_learning_rate: float = 3e-3
    """Peak rate of pre-training."""
    teacher_learning_rate: float = 2e-3
    """Peak rate of an expert's training."""
    max_steps: int = 3000
    """Pre-training gives up after these."""
    train_prompts: int = 2048
    """Training prompts per domain."""
    stopping_prompts: int = 64
    """Prompts per domain on which pre-training decides to stop."""
    heldout_prompts: int = 128
    """Held-out prompts per domain."""


@dataclass(frozen=True)
class Playground:
    """Paths of a playground's files."""

    root: Path

    @property
    def student(self) -> Path:
        return self.root / "student"

    def teacher(self, domain: Domain) -> Path:
        """The expert of a domain."""
        return self.root / f"{domain}_teacher"

    @property
    def train(self) -> Path:
        return self.root / "train.jsonl"

    @property
    def heldout(self) -> Path:
        return self.root / "heldout.jsonl"


def build(root: str | Path = ROOT, seed: int = 0, recipe: Recipe = Recipe()) -> Playground:  # frozen
    """Build models and prompts, unless they exist.

    Args:
        root: directory of all playgrounds; this one is ``seed<seed>`` in it.
        seed: of weights, data and prompts.
        recipe: sizes and stopping rules.
    """
    required = ("student", *(f"{domain}_teacher" for domain in DOMAINS), "train.jsonl", "heldout.jsonl")
    cache_key = {"format": FORMAT, "seed": seed, **asdict(recipe)}
    return Playground(cached(Path(root) / f"seed{seed}", cache_key, required, lambda out: _make(out, seed, recipe)))


def _make(directory: Path, seed: int, recipe: Recipe) -> dict:
    """Write everything into a directory; returns steps and scores by model."""
    notes = {}
    student, steps, score = _student(seed, recipe)
    notes["student"] = {"steps": steps, "rule_following": score}
    save(student, directory / "student")
    for domain in DOMAINS:
        teacher, steps, score = _teacher(student, domain, seed, recipe)
        notes[f"{domain}_teacher"] = {"steps": steps, "accuracy": score}
        save(teacher, directory / f"{domain}_teacher")
    write_prompts(directory / "train.jsonl", seed, "train", recipe.train_prompts)
    write_prompts(directory / "heldout.jsonl", seed, "heldout", recipe.heldout_prompts)
    return notes


def _student(seed: int, recipe: Recipe) -> tuple[PreTrainedModel, int, float]:
    """Pre-trained on answers of a solver that is careless most of the time: fluent, and usually wrong."""
    stopping = [p for domain in DOMAINS for p in distinct_prompts(seed, domain, "stopping", recipe.stopping_prompts)]

    def loss(model: PreTrainedModel, rng: random.Random, step: int) -> Tensor:
        warming = step < recipe.warmup_steps
        steps, count = (1, 2 * recipe.batch_size) if warming else (4, recipe.batch_size)
        prompts = [draw_prompt(rng, DOMAINS[i % 2], rng.randint(1, steps), "train") for i in range(count)]
        careless = 0.0 if warming else recipe.careless
        return answer_loss(model, [(prompt, solve(prompt, lambda: rng.random() < careless)) for prompt in prompts])

    def score(model: PreTrainedModel) -> float:
        answers = answers_of(model, stopping, temperature=1.0)
        right = [follows_a_rule(prompt, answer) for prompt, answer in zip(stopping, answers, strict=True)]
        half = len(right) // 2
        return min(sum(right[:half]), sum(right[half:])) / half  # the weaker domain decides

    return train_until(
        make_model(derive_seed("playground", seed), recipe.width, recipe.layers),
        loss,
        score,
        stop_at=recipe.student_stops_at,
        learning_rate=recipe.student_learning_rate,
        first_check=min(250, recipe.max_steps),
        check_every=50,
        max_steps=recipe.max_steps,
        averaging=0.97,
        seed=derive_seed("playground", seed, "student"),
        label="playground: the student learns to write answers",
    )


def _teacher(student: PreTrainedModel, domain: Domain, seed: int, recipe: Recipe) -> tuple[PreTrainedModel, int, float]:
    """The student, trained on with careful answers of one domain."""
    stopping = distinct_prompts(seed, domain, "stopping", recipe.stopping_prompts)

    def loss(model: PreTrainedModel, rng: random.Random, step: int) -> Tensor:
        prompts = [draw_prompt(rng, domain, rng.randint(1, 4), "train") for _ in range(recipe.batch_size)]
        return answer_loss(model, [(prompt, solve(prompt)) for prompt in prompts])

    def score(model: PreTrainedModel) -> float:
        answers = answers_of(model, stopping, temperature=0.0)
        return sum(answer == solve(prompt) for prompt, answer in zip(stopping, answers, strict=True)) / len(stopping)

    copy = make_model(0, recipe.width, recipe.layers)
    copy.load_state_dict(student.state_dict())
    return train_until(
        copy,
        loss,
        score,
        stop_at=recipe.teacher_stops_at,
        learning_rate=recipe.teacher_learning_rate,
        first_check=min(50, recipe.max_steps),
        check_every=25,
        max_steps=recipe.max_steps,
        averaging=0.97,
        seed=derive_seed("playground", seed, domain),
        label=f"playground: the {domain} expert learns to be careful",
    )


def save(model: PreTrainedModel, directory: Path) -> None:
    """Write a model and its tokenizer."""
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)


def write_prompts(path: Path, seed: int | str, split: Split, count: int, steps: tuple[int, int] = (1, 4)) -> None:
    """Write ``count`` prompts of each domain, of ``steps`` (fewest, most) steps."""
    with path.open("w") as out:
        for domain in DOMAINS:
            for i, prompt in enumerate(distinct_prompts(seed, domain, split, count, steps)):
                row = {"id": f"{domain}-{split}-{i}", "prompt": prompt, "answer": result(prompt), "domain": domain}
                out.write(json.dumps({**row, "teacher": domain, "grader": "playground"}) + "\n")
