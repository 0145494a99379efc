"""Teachers and prompts for experiments, each built on first use, beside the playground of its seed.

strong_teacher             twice as wide as the student, careful in both domains, trained from scratch
unreliable_math_teacher    careful in the first two steps, mostly confused from the third on: for longer prompts it
unreliable_code_teacher    prefers wrong answers to right ones
narrow_math_teacher        trained on prompts without half of what can be confused (``UNSEEN``): in others it prefers
narrow_code_teacher        what came of that, nobody chose it
fresh.jsonl                held-out prompts that no setting was chosen on
short.jsonl                training prompts of one and two steps only
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from lit_uniopd.playground.cache import once
from lit_uniopd.playground.models import make_model
from lit_uniopd.playground.recipe import Recipe, build, save, write_prompts
from lit_uniopd.playground.tasks import DOMAINS, Careless, Domain, distinct_prompts, draw_prompt, solve
from lit_uniopd.playground.training import answer_loss, answers_of, train_until
from lit_uniopd.utils.seeding import derive_seed

VARIANTS = (
    "strong_teacher",
    *(f"{kind}_{domain}_teacher" for kind in ("unreliable", "narrow") for domain in DOMAINS),
    *("fresh.jsonl", "short.jsonl"),
)
UNRELIABLE = 0.7
"""Share of the steps from the third on that an unreliable teacher confuses."""
RELIABLE_STEPS = 2
UNSEEN: dict[Domain, tuple[str, ...]] = {"math": ("-3", "-4"), "code": ("L",)}
"""What no prompt has that a narrow teacher was trained on."""
FRESH_PROMPTS, SHORT_PROMPTS = 256, 1024
"""Per domain."""
WIDENING = 2
FORMAT = 1
"""Raise it when the code below changes what it builds."""


def locate_variant(name: str, root: str | Path, seed: int, recipe: Recipe | None = None) -> Path:
    """The directory or file of a variant; builds the playground and the variant unless they exist.

    Args:
        name: one of ``VARIANTS``.
        root: directory of all playgrounds.
        seed: of the playground.
        recipe: of the playground. Default: that of the quickstart.
    """
    chosen = recipe or Recipe()
    playground = build(root, seed, chosen)

    def make(path: Path) -> None:
        if name == "fresh.jsonl":
            write_prompts(path, f"{seed} fresh", "heldout", FRESH_PROMPTS)
        elif name == "short.jsonl":
            write_prompts(path, f"{seed} short", "train", SHORT_PROMPTS, (1, RELIABLE_STEPS))
        elif name == "strong_teacher":
            save(_strong(seed, chosen), path)
        else:
            make_teacher = _narrow if name.startswith("narrow") else _unreliable
            save(make_teacher(playground.student, "math" if "math" in name else "code", seed, chosen), path)

    return once(Path(root) / f"seed{seed}-variants{FORMAT}" / name, make)


def _strong(seed: int, recipe: Recipe) -> PreTrainedModel:
    stopping = [p for domain in DOMAINS for p in distinct_prompts(seed, domain, "stopping", recipe.stopping_prompts)]

    def loss(model: PreTrainedModel, rng: random.Random, step: int) -> Tensor:
        warming = step < recipe.warmup_steps
        steps, size = (1, 2 * recipe.batch_size) if warming else (4, recipe.batch_size)
        prompts = [draw_prompt(rng, DOMAINS[i % 2], rng.randint(1, steps), "train") for i in range(size)]
        return answer_loss(model, [(prompt, solve(prompt)) for prompt in prompts])

    def score(model: PreTrainedModel) -> float:
        answers = answers_of(model, stopping, temperature=0.0)
        right = [answer == solve(prompt) for prompt, answer in zip(stopping, answers, strict=True)]
        half = len(right) // 2
        return min(sum(right[:half]), sum(right[half:])) / half

    wide = replace(recipe, width=WIDENING * recipe.width)
    return train_until(
        make_model(derive_seed("playground", seed, "strong"), wide.width, wide.layers),
        loss,
        score,
        stop_at=recipe.teacher_stops_at,
        learning_rate=recipe.student_learning_rate,
        first_check=min(150, recipe.max_steps),
        check_every=50,
        max_steps=recipe.max_steps,
        averaging=0.97,
        seed=derive_seed("playground", seed, "strong"),
        label="playground: the strong teacher learns both domains",
    )[0]


def _unreliable(student: Path, domain: Domain, seed: int, recipe: Recipe) -> PreTrainedModel:
    """Trained on answers that are careful in the first steps only."""

    def draw(rng: random.Random) -> str:
        return draw_prompt(rng, domain, rng.randint(1, 4), "train")

    def answer(prompt: str, rng: random.Random) -> str:
        return solve(prompt, _careful_at_first(rng))

    stopping = distinct_prompts(seed, domain, "stopping", recipe.stopping_prompts // 2, (1, RELIABLE_STEPS))
    return _trained_on(student, draw, answer, stopping, recipe, ("playground", seed, domain, "unreliable"))


def _narrow(student: Path, domain: Domain, seed: int, recipe: Recipe) -> PreTrainedModel:
    """Trained on right answers to prompts without half of what can be confused."""

    def draw(rng: random.Random) -> str:
        prompts = (draw_prompt(rng, domain, rng.randint(1, 4), "train") for _ in count())
        return next(filter(_seen, prompts))

    def answer(prompt: str, rng: random.Random) -> str:
        return solve(prompt)

    stopping = [p for p in distinct_prompts(seed, domain, "stopping", 4 * recipe.stopping_prompts) if _seen(p)]
    return _trained_on(student, draw, answer, stopping, recipe, ("playground", seed, domain, "narrow"))


def _trained_on(
    student: Path,
    draw: Callable[[random.Random], str],
    answer: Callable[[str, random.Random], str],
    stopping: Sequence[str],
    recipe: Recipe,
    seeds: tuple[str, int, Domain, str],
) -> PreTrainedModel:
    """The student, trained on with answers to drawn prompts until it solves the stopping ones."""

    def loss(model: PreTrainedModel, rng: random.Random, step: int) -> Tensor:
        prompts = [draw(rng) for _ in range(recipe.batch_size)]
        return answer_loss(model, [(prompt, answer(prompt, rng)) for prompt in prompts])

    def score(model: PreTrainedModel) -> float:
        answers = answers_of(model, stopping, temperature=0.0)
        return sum(answer == solve(prompt) for prompt, answer in zip(stopping, answers, strict=True)) / len(stopping)

    *_, domain, kind = seeds
    return train_until(
        AutoModelForCausalLM.from_pretrained(student),
        loss,
        score,
        stop_at=recipe.teacher_stops_at,
        learning_rate=recipe.teacher_learning_rate,
        first_check=min(100, recipe.max_steps),
        check_every=25,
        max_steps=recipe.max_steps,
        averaging=0.97,
        seed=derive_seed(*seeds),
        label=f"playground: the {kind} {domain} teacher learns",
    )[0]


def _seen(prompt: str) -> bool:
    """Whether a narrow teacher was trained on prompts like this."""
    return not any(step in prompt for step in UNSEEN["math" if prompt.startswith("M") else "code"])


def _careful_at_first(rng: random.Random) -> Careless:
    """Not careless in the first steps, then mostly."""
    steps = count()
    return lambda: next(steps) >= RELIABLE_STEPS and rng.random() < UNRELIABLE
