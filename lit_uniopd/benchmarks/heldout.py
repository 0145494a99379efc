"""Held-out prompts of a training run as benchmarks, so that there is one way to evaluate."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lit_uniopd.benchmarks.harness.args import PREFIXES
from lit_uniopd.benchmarks.records import Record, content_hash
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.benchmarks.spec import (
    Benchmark,
    BenchmarkSpec,
    Example,
    Generation,
    HubData,
    PromptFormat,
    Report,
    Scoring,
)
from lit_uniopd.errors import UserError

if TYPE_CHECKING:  # `uniopd compare` needs neither
    from lit_uniopd.sampling.args import SamplingArgs
    from lit_uniopd.types import Prompt

log = logging.getLogger(__name__)

VERSION = 1
FOR_TEACHER = ("teacher_messages", "teacher_system", "teacher_images")


def heldout_benchmarks(prompts: "Sequence[Prompt]", sampling: "SamplingArgs", split: str) -> dict[str, Benchmark]:
    """One benchmark per domain.

    Args:
        prompts: those without a grader are left out, which is logged.
        sampling: how answers are written.
        split: ``val`` or ``test``; stands first in the tags.

    Returns:
        Domain -> benchmark, in alphabetical order.
    """
    graded = [prompt for prompt in prompts if prompt.grader is not None]
    if len(graded) < len(prompts):
        log.info(
            "%d of %d %s prompts have no grader and are not scored.", len(prompts) - len(graded), len(prompts), split
        )
    domains = sorted({prompt.domain for prompt in graded})
    return {name: _benchmark(name, [p for p in graded if p.domain == name], sampling, split) for name in domains}


def _benchmark(domain: str, prompts: "list[Prompt]", sampling: "SamplingArgs", split: str) -> Benchmark:
    spec = heldout_spec(domain, split, pictures=any(prompt.images for prompt in prompts))
    generation = Generation(
        n=sampling.n,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
    )
    examples = [example_of(prompt) for prompt in prompts]
    return Benchmark(
        spec=spec,
        profile="paper",
        generation=generation,
        examples=examples,
        fingerprint=content_hash([(example.id, example.messages, example.gold) for example in examples]),
    )


def heldout_spec(domain: str, split: str, *, pictures: bool = False) -> BenchmarkSpec:
    """The spec of held-out prompts of one domain."""
    return BenchmarkSpec(
        id=domain,
        protocol=split,
        version=VERSION,
        title=domain,
        domain=domain,
        modality="image" if pictures else "text",
        hub=HubData(id=""),
        prompt=PromptFormat(chat={}),  # as in training, whatever the policy's own options leave to the template
        scoring=Scoring(grader=None),
        report=Report(metrics=({"name": "avg"},)),
    )


def recorded_spec(record: Record) -> BenchmarkSpec:
    """The spec behind a record: one of the registry, else that of held-out prompts, whose verdicts are averaged.

    Of a harness's tasks the first of its metrics is averaged.
    """
    if record.benchmark.startswith(PREFIXES):
        metrics = ({"name": "mean_score", "label": record.options.get("score", "score")},)
        return replace(heldout_spec(record.benchmark, record.protocol), report=Report(metrics=metrics))
    try:
        return find_spec(f"{record.benchmark}@{record.protocol}")
    except UserError:
        return heldout_spec(record.benchmark, record.protocol)


def example_of(prompt: "Prompt") -> Example:
    """A prompt as a row of a benchmark."""
    return Example(
        id=prompt.id,
        messages=prompt.messages,
        gold=prompt.gold,
        images=prompt.images,
        row=prompt.row,
        grader=prompt.grader,
        for_teacher={name: value for name in FOR_TEACHER if (value := getattr(prompt, name)) is not None},
    )
