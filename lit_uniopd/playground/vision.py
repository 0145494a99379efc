"""Builds the multimodal playground once: an image-text student, an expert per domain, prompts with pictures."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from lit_uniopd.errors import UserError
from lit_uniopd.playground.cache import cached
from lit_uniopd.playground.recipe import Recipe, build
from lit_uniopd.playground.tasks import Split, follows_a_rule, result, solve
from lit_uniopd.playground.training import answer_loss, answers_of, train_until
from lit_uniopd.playground.vision_models import encode, make_llava, make_processor
from lit_uniopd.playground.vision_tasks import (
    PICTURED,
    VISION_DOMAINS,
    Question,
    VisionDomain,
    distinct_questions,
    draw_question,
)
from lit_uniopd.utils.seeding import derive_seed

FORMAT = 1
"""Raise it when the code below changes what it builds."""
NAMES = ("student", *(f"{domain}_teacher" for domain in PICTURED), "train.jsonl", "heldout.jsonl")


@dataclass(frozen=True)
class VisionRecipe:
    """How the models are made, starting from those of the text playground."""

    batch_size: int = 48
    """Answers per training step, evenly over the domains."""
    student_stops_at: float = 0.85
    """Share of sampled answers that follow the right or the confused rule, in the weakest domain."""
    teacher_stops_at: float = 0.95
    """Accuracy of an expert's greedy answers in its domain."""
    learning_rate: float = 2e-3
    """Peak rate, of student and experts."""
    warmup_steps: int = 300
    """Steps at the start with questions of one step only: the student learns to read pictures before to calculate."""
    max_steps: int = 3000
    """Training gives up after these."""
    train_prompts: int = 512
    """Training prompts per domain."""
    stopping_prompts: int = 64
    """Prompts per domain on which training decides to stop."""
    heldout_prompts: int = 128
    """Held-out prompts per domain."""


def locate_vision(
    name: str, root: str | Path, seed: int, recipe: VisionRecipe | None = None, text_recipe: Recipe | None = None
) -> Path:
    """The path behind ``playground:vision_NAME``; builds both playgrounds unless they exist.

    Args:
        name: one of ``NAMES``.
        root: directory of all playgrounds.
        seed: of the playground.
        recipe: sizes and stopping rules. Default: the one that docs/playground.md reports on.
        text_recipe: of the text playground. Default: that of the quickstart.

    Raises:
        UserError: if there is no such name.
    """
    if name not in NAMES:
        choices = ", ".join(f"vision_{n.removesuffix('.jsonl')}" for n in NAMES)
        raise UserError(f"The path playground:vision_{name} is unknown; write playground: and one of {choices}.")
    recipe, text_recipe = recipe or VisionRecipe(), text_recipe or Recipe()
    cache_key = {"format": FORMAT, "seed": seed, **asdict(recipe), "text": asdict(text_recipe)}
    student = build(root, seed, text_recipe).student
    target = Path(root) / f"vision_seed{seed}"
    return cached(target, cache_key, NAMES, lambda out: _make(student, out, seed, recipe)) / name


def _make(text_student: Path, out: Path, seed: int, recipe: VisionRecipe) -> dict[str, Any]:
    """Write everything into a directory; returns steps and scores by model."""
    base = AutoModelForCausalLM.from_pretrained(text_student)
    student, steps, score = _student(make_llava(base, derive_seed("vision", seed)), seed, recipe)
    notes = {"student": {"steps": steps, "rule_following": score}}
    _save(student, out / "student")
    for domain in PICTURED:
        teacher, steps, score = _teacher(copy.deepcopy(student), domain, seed, recipe)
        notes[f"{domain}_teacher"] = {"steps": steps, "accuracy": score}
        _save(teacher, out / f"{domain}_teacher")
    (out / "pictures").mkdir()
    _write(out / "train.jsonl", seed, "train", recipe.train_prompts)
    _write(out / "heldout.jsonl", seed, "heldout", recipe.heldout_prompts)
    return notes


def _student(model: PreTrainedModel, seed: int, recipe: VisionRecipe) -> tuple[PreTrainedModel, int, float]:
    """Train to read pictures, on answers as careless as those of the text student's training."""
    careless = Recipe().careless
    stopping = {d: distinct_questions(seed, d, "stopping", recipe.stopping_prompts) for d in VISION_DOMAINS}

    def questions(rng: random.Random, step: int) -> list[Question]:
        longest = 1 if step < recipe.warmup_steps else 4
        return [
            draw_question(rng, VISION_DOMAINS[i % len(VISION_DOMAINS)], rng.randint(1, longest), "train")
            for i in range(recipe.batch_size)
        ]

    def score(trained: PreTrainedModel) -> float:
        return min(_share(trained, domain_questions, 1.0, follows_a_rule) for domain_questions in stopping.values())

    return _train(
        model,
        questions,
        lambda rng, question: solve(question.text_form, lambda: rng.random() < careless),
        score,
        recipe=recipe,
        stop_at=recipe.student_stops_at,
        first_check=200,
        seed=derive_seed("vision", seed, "student"),
        label="playground: the student learns to see",
    )


def _teacher(
    model: PreTrainedModel, domain: VisionDomain, seed: int, recipe: VisionRecipe
) -> tuple[PreTrainedModel, int, float]:
    """The student, trained on with careful answers of one domain."""
    stopping = distinct_questions(seed, domain, "stopping", recipe.stopping_prompts)

    def score(trained: PreTrainedModel) -> float:
        return _share(trained, stopping, 0.0, lambda question, answer: answer == solve(question))

    return _train(
        model,
        lambda rng, step: [draw_question(rng, domain, rng.randint(1, 4), "train") for _ in range(recipe.batch_size)],
        lambda rng, question: solve(question.text_form),
        score,
        recipe=recipe,
        stop_at=recipe.teacher_stops_at,
        first_check=50,
        seed=derive_seed("vision", seed, domain),
        label=f"playground: the {domain} expert learns to be careful",
    )


def _share(
    model: PreTrainedModel,
    questions: Sequence[Question],
    temperature: float,
    right: Callable[[str, str], bool],
) -> float:
    """Share of right answers; ``right`` judges (text form of the question, answer)."""
    prompts, encoded = [q.prompt for q in questions], [encode(q) for q in questions]
    answers = answers_of(model, prompts, temperature=temperature, encoded=encoded)
    return sum(right(q.text_form, answer) for q, answer in zip(questions, answers, strict=True)) / len(questions)


def _train(
    model: PreTrainedModel,
    questions: Callable[[random.Random, int], list[Question]],
    answer: Callable[[random.Random, Question], str],
    score: Callable[[PreTrainedModel], float],
    *,
    recipe: VisionRecipe,
    stop_at: float,
    first_check: int,
    seed: int,
    label: str,
) -> tuple[PreTrainedModel, int, float]:
    def loss(trained: PreTrainedModel, rng: random.Random, step: int) -> Tensor:
        batch = questions(rng, step)
        rows = [(question.prompt, answer(rng, question)) for question in batch]
        return answer_loss(trained, rows, [encode(question) for question in batch])

    return train_until(
        model,
        loss,
        score,
        stop_at=stop_at,
        learning_rate=recipe.learning_rate,
        first_check=min(first_check, recipe.max_steps),
        check_every=50,
        max_steps=recipe.max_steps,
        averaging=0.97,
        seed=seed,
        label=label,
    )


def _save(model: PreTrainedModel, directory: Path) -> None:
    model.save_pretrained(directory)
    make_processor().save_pretrained(directory)


def _write(path: Path, seed: int, split: Split, count: int) -> None:
    """Write rows, and their pictures beside them."""
    with path.open("w") as out:
        for domain in VISION_DOMAINS:
            for i, question in enumerate(distinct_questions(seed, domain, split, count)):
                row: dict[str, Any] = {
                    "id": f"{domain}-{split}-{i}",
                    "prompt": question.prompt,
                    "answer": result(question.text_form),
                }
                picture = question.picture()
                if picture is not None:
                    file = f"pictures/{domain}-{split}-{i}.png"
                    picture.save(path.parent / file)
                    row["images"] = [file]
                out.write(json.dumps({**row, "domain": domain, "teacher": domain, "grader": "playground"}) + "\n")
