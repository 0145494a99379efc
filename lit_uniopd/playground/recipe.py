"""Builds the playground once: two experts, a weak student, prompts; cached by seed and recipe."""

import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from lit_uniopd.errors import UserError
from lit_uniopd.playground.models import make_model, make_tokenizer
from lit_uniopd.playground.tasks import DOMAINS, Domain, distinct_prompts, draw_prompt, follows_a_rule, result, solve
from lit_uniopd.playground.threads import thread_probe
from lit_uniopd.playground.training import Row, answers_of, train_until
from lit_uniopd.playground.untrained import write_tiny_text, write_tiny_vision
from lit_uniopd.seeding import derive_seed, run_seed

ROOT = "runs/playground"
UNTRAINED = {"tiny_text": write_tiny_text, "tiny_vision": write_tiny_vision}
"""Models with random weights: they show that things run, not that they work."""
FORMAT = 2
"""Raise it when the code below changes what it builds; caches of another format are built anew."""


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
    because greedy answers look fluent before the rarer rule is known, and what a student never writes it cannot learn
    on-policy."""
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
    """Where everything is."""

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


def locate(name: str, root: str | Path = ROOT, seed: int | None = None) -> Path:
    """The path behind ``playground:NAME`` in a config; builds the playground if it is not there.

    Args:
        name: ``student``, ``math_teacher``, ``code_teacher``, ``train.jsonl`` or ``heldout.jsonl``; or ``tiny_text``
            and ``tiny_vision``, which are untrained.
        root: directory of all playgrounds.
        seed: of the playground; None: that of the run.

    Raises:
        UserError: if there is no such name.
    """
    if name in UNTRAINED:
        return _untrained(name, Path(root))
    names = ["student", *(f"{domain}_teacher" for domain in DOMAINS), "train.jsonl", "heldout.jsonl"]
    if name not in names:
        raise UserError(
            f"The playground has no {name!r}; write playground: and one of {', '.join([*names, *UNTRAINED])}."
        )
    return build(root, run_seed(seed)).root / name


def _untrained(name: str, root: Path) -> Path:
    target = root / name
    if (target / "model.safetensors").exists() and (target / "tokenizer.json").exists():
        return target
    root.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    try:
        with _quiet_threads():
            UNTRAINED[name](scratch, 0)
        with suppress(OSError):  # another process was faster; its model is the same
            os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def build(root: str | Path = ROOT, seed: int = 0, recipe: Recipe = Recipe()) -> Playground:  # frozen
    """Make models and prompts, or find them made.

    Everything is written to a directory beside the target and renamed at the end: a killed build leaves no half
    playground, and of two builds at once one wins whole.

    Args:
        root: directory of all playgrounds; this one is ``seed<seed>`` in it.
        seed: of weights, data and prompts.
        recipe: sizes and stopping rules.
    """
    target = Path(root) / f"seed{seed}"
    wanted = {"format": FORMAT, "seed": seed, **asdict(recipe)}
    if _is_current(target, wanted):
        return Playground(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with _quiet_threads():
            notes = _make(scratch, seed, recipe)
        (scratch / "recipe.json").write_text(json.dumps({"recipe": wanted, **notes}, indent=2) + "\n")
        _install(scratch, target, wanted)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Playground(target)


def _install(scratch: Path, target: Path, wanted: dict) -> None:
    if _is_current(target, wanted):  # another process was faster and may be reading it; ours would be the same
        return
    shutil.rmtree(target, ignore_errors=True)
    try:
        os.rename(scratch, target)
    except OSError:
        if not _is_current(target, wanted):
            raise


def _is_current(target: Path, wanted: dict) -> bool:
    weights = [f"{name}/model.safetensors" for name in ("student", *(f"{domain}_teacher" for domain in DOMAINS))]
    if not all((target / part).exists() for part in (*weights, "train.jsonl", "heldout.jsonl")):
        return False
    try:
        return json.loads((target / "recipe.json").read_text())["recipe"] == wanted
    except (OSError, ValueError, KeyError):
        return False


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """The fastest thread count and no bars for saving tiny files, both as before on leaving."""
    threads, bars = torch.get_num_threads(), transformers_logging.is_progress_bar_enabled()
    torch.set_num_threads(thread_probe())
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if bars:
            transformers_logging.enable_progress_bar()


def _make(directory: Path, seed: int, recipe: Recipe) -> dict:
    """Write everything into a directory; returns steps and scores by model."""
    notes = {}
    student, steps, score = _student(seed, recipe)
    notes["student"] = {"steps": steps, "rule_following": score}
    _save(student, directory / "student")
    for domain in DOMAINS:
        teacher, steps, score = _teacher(student, domain, seed, recipe)
        notes[f"{domain}_teacher"] = {"steps": steps, "accuracy": score}
        _save(teacher, directory / f"{domain}_teacher")
    _write_prompts(directory / "train.jsonl", seed, "train", recipe.train_prompts)
    _write_prompts(directory / "heldout.jsonl", seed, "heldout", recipe.heldout_prompts)
    return notes


def _student(seed: int, recipe: Recipe) -> tuple[PreTrainedModel, int, float]:
    """Pre-trained on answers of a solver that is careless most of the time: fluent, and usually wrong."""
    stopping = [p for domain in DOMAINS for p in distinct_prompts(seed, domain, "stopping", recipe.stopping_prompts)]

    def rows(rng: random.Random, step: int) -> list[Row]:
        warming = step < recipe.warmup_steps
        steps, count = (1, 2 * recipe.batch_size) if warming else (4, recipe.batch_size)
        prompts = [draw_prompt(rng, DOMAINS[i % 2], rng.randint(1, steps), "train") for i in range(count)]
        careless = 0.0 if warming else recipe.careless
        return [(prompt, solve(prompt, lambda: rng.random() < careless)) for prompt in prompts]

    def score(model: PreTrainedModel) -> float:
        answers = answers_of(model, stopping, temperature=1.0)
        right = [follows_a_rule(prompt, answer) for prompt, answer in zip(stopping, answers, strict=True)]
        half = len(right) // 2
        return min(sum(right[:half]), sum(right[half:])) / half  # the weaker domain decides

    return train_until(
        make_model(derive_seed("playground", seed), recipe.width, recipe.layers),
        rows,
        score,
        stop_at=recipe.student_stops_at,
        learning_rate=recipe.student_learning_rate,
        first_check=min(250, recipe.max_steps),
        check_every=50,
        max_steps=recipe.max_steps,
        averaging=0.97,
        seed=derive_seed("playground", seed, "student"),
        what="playground: the student learns to write answers",
    )


def _teacher(student: PreTrainedModel, domain: Domain, seed: int, recipe: Recipe) -> tuple[PreTrainedModel, int, float]:
    """The student, trained on with careful answers of one domain."""
    stopping = distinct_prompts(seed, domain, "stopping", recipe.stopping_prompts)

    def rows(rng: random.Random, step: int) -> list[Row]:
        prompts = [draw_prompt(rng, domain, rng.randint(1, 4), "train") for _ in range(recipe.batch_size)]
        return [(prompt, solve(prompt)) for prompt in prompts]

    def score(model: PreTrainedModel) -> float:
        answers = answers_of(model, stopping, temperature=0.0)
        return sum(answer == solve(prompt) for prompt, answer in zip(stopping, answers, strict=True)) / len(stopping)

    copy = make_model(0, recipe.width, recipe.layers)
    copy.load_state_dict(student.state_dict())
    return train_until(
        copy,
        rows,
        score,
        stop_at=recipe.teacher_stops_at,
        learning_rate=recipe.teacher_learning_rate,
        first_check=min(50, recipe.max_steps),
        check_every=25,
        max_steps=recipe.max_steps,
        averaging=0.97,
        seed=derive_seed("playground", seed, domain),
        what=f"playground: the {domain} expert learns to be careful",
    )


def _save(model: PreTrainedModel, directory: Path) -> None:
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)


def _write_prompts(path: Path, seed: int, split: str, count: int) -> None:
    with path.open("w") as out:
        for domain in DOMAINS:
            for i, prompt in enumerate(distinct_prompts(seed, domain, split, count)):  # type: ignore[arg-type]
                row = {"id": f"{domain}-{split}-{i}", "prompt": prompt, "answer": result(prompt), "domain": domain}
                out.write(json.dumps({**row, "teacher": domain, "grader": "playground"}) + "\n")
