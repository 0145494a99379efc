"""A benchmark with its rows, ready to be answered; and the check that its gold answers pass."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lit_uniopd.benchmarks.adapters import ADAPTERS, AdapterContext
from lit_uniopd.benchmarks.datasets import folder_of, read_rows
from lit_uniopd.benchmarks.fingerprint import image_hash
from lit_uniopd.benchmarks.harness.loading import is_harness, load_harness
from lit_uniopd.benchmarks.harness.wording import official_words
from lit_uniopd.benchmarks.profiles import PROFILES
from lit_uniopd.benchmarks.records import content_hash
from lit_uniopd.benchmarks.spec import Benchmark, BenchmarkSpec, Example, ProfileName
from lit_uniopd.errors import UserError
from lit_uniopd.rewards import GradeItem, GraderPool, is_custom
from lit_uniopd.rewards.boxes import final_gold
from lit_uniopd.utils.near_names import did_you_mean

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Directory of what was computed from data sets: ``LIT_UNIOPD_CACHE``, else ``~/.cache/lit_uniopd``."""
    return Path(os.environ.get("LIT_UNIOPD_CACHE", "~/.cache/lit_uniopd")).expanduser()


def load_benchmarks(
    specs: Iterable[BenchmarkSpec], profile: ProfileName, *, limit: int | None = None
) -> list[Benchmark]:
    """The benchmarks of specs, each once, with their rows; a harness's name may stand for several tasks.

    Raises:
        UserError: as ``load_benchmark``.
    """
    benchmarks: dict[str, Benchmark] = {}
    for spec in specs:
        if not is_harness(spec):
            benchmarks.setdefault(spec.key, load_benchmark(spec, profile, limit=limit))
            continue
        for benchmark in load_harness(spec, profile, limit):
            kept = benchmarks.setdefault(benchmark.key, benchmark)
            if kept is not benchmark:  # a task of two groups
                kept.harness.groups += benchmark.harness.groups
    return list(benchmarks.values())


def load_benchmark(spec: BenchmarkSpec, profile: ProfileName, *, limit: int | None = None) -> Benchmark:
    """Read rows and make examples of them.

    Args:
        spec: the benchmark.
        profile: how much of it.
        limit: at most so many problems.

    Raises:
        UserError: if the rows cannot be read, have other columns than expected, or none is left, or if the words in
            which they are asked cannot be had.
    """
    if profile not in PROFILES:
        raise UserError(f"--data.profile must be one of {', '.join(PROFILES)}, not {profile!r}.")
    if spec.adapter not in ADAPTERS:
        near = did_you_mean(spec.adapter, ADAPTERS)
        raise UserError(
            f"Benchmark {spec.key}: there is no adapter {spec.adapter!r}{near}; use one of {', '.join(ADAPTERS)}."
        )
    if spec.prompt.wording is not None and profile != "fixture":
        spec = replace(spec, prompt=replace(spec.prompt, system=official_words(spec.prompt.wording, spec.key)))
    rows = read_rows(spec, profile)
    context = AdapterContext(profile=profile, fixture=profile == "fixture", cache_dir=cache_dir())
    adapted = ADAPTERS[spec.adapter](rows, spec, context)
    examples = select_examples(adapted.examples, profile, limit)
    if not examples:
        raise UserError(
            f"Benchmark {spec.key} has no row to answer; of {len(rows)} were left out {adapted.left_out}; "
            "choose another --data.profile, or leave it out."
        )
    examples = [with_image_paths(example, spec) for example in examples]
    for reason, count in adapted.left_out.items():
        log.warning("%s: %d row(s) are not scored: %s.", spec.key, count, reason)
    duplicates = [name for name, count in Counter(example.id for example in examples).items() if count > 1]
    if duplicates:
        raise UserError(
            f"Benchmark {spec.key}: {len(duplicates)} row names are not unique ({duplicates[0]!r}); name another "
            "column by columns.id."
        )
    return Benchmark(
        spec=spec,
        profile=profile,
        generation=PROFILES[profile].limit(spec.generation),
        examples=examples,
        fingerprint=fingerprint(examples),
        left_out=dict(adapted.left_out),
    )


def select_examples(examples: Sequence[Example], profile: ProfileName, limit: int | None) -> list[Example]:
    """The rows of a profile: all rows of the groups whose names hash lowest, in the order of the data set."""
    names = list(dict.fromkeys(example.group or example.id for example in examples))
    profile_limits = PROFILES[profile]
    count = (
        len(names) if profile_limits.rows is None or len(names) <= profile_limits.whole_below else profile_limits.rows
    )
    count = min(count, limit or count)
    selected = set(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:count])
    return [example for example in examples if (example.group or example.id) in selected]


def with_image_paths(example: Example, spec: BenchmarkSpec) -> Example:
    """The example with the paths of its pictures, which start from the folder of a local file of rows.

    Raises:
        UserError: naming the row, if a picture is missing.
    """
    images = []
    for image in example.images:
        # The folder is asked for where a path needs it: that of the playground is there only once its models are.
        path = folder_of(spec) / image if isinstance(image, str) else image
        if isinstance(path, Path) and not path.is_file():
            raise UserError(
                f"Benchmark {spec.key}: the picture {path} of row {example.id} does not exist; put it there or mend "
                "the column of pictures."
            )
        images.append(str(path) if isinstance(path, Path) else path)
    return replace(example, images=tuple(images))


def fingerprint(examples: Sequence[Example]) -> str:
    """Hash of questions, gold answers and images."""
    contents = [(e.id, e.chat, e.gold, dict(e.options), [image_hash(image) for image in e.images]) for e in examples]
    return content_hash(contents)


@dataclass(frozen=True, slots=True)
class GoldReport:
    """Rows whose graders judge their gold answer or an empty one wrongly."""

    checked: int
    """Rows with a grader whose gold answer is also a possible response."""
    rejected: tuple[str, ...]
    """Rows whose gold answer is not accepted."""
    fooled: tuple[str, ...]
    """Rows whose grader accepts an empty response."""
    broken: tuple[str, ...] = ()
    """Rows on whose empty response the grader of a user breaks down."""

    @property
    def good(self) -> bool:
        return not self.rejected and not self.fooled and not self.broken


def check_golds(benchmark: Benchmark, graders: GraderPool) -> GoldReport:
    """Let each row's grader judge its own gold answer, and an empty one.

    The golds of programs and captions are tests and object lists, not responses; the adapters check those.

    Args:
        benchmark: whose rows are checked.
        graders: judge them.
    """
    rows = [e for e in benchmark.examples if benchmark.grader(e) is not None]
    answerable = [(e, response) for e in rows if (response := gold_response(str(benchmark.grader(e)), e)) is not None]

    def grade_item(example: Example, response: str) -> GradeItem:
        options = {**benchmark.spec.scoring.options, **example.options}
        name = str(benchmark.grader(example))
        return GradeItem(name, example.gold, response, example.row, options, example.messages)

    golds = graders.grade([grade_item(example, response) for example, response in answerable])
    empty = graders.grade([grade_item(example, "") for example in rows])
    return GoldReport(
        checked=len(answerable),
        rejected=tuple(e.id for (e, _), grade in zip(answerable, golds, strict=True) if grade.correct is not True),
        fooled=tuple(e.id for e, grade in zip(rows, empty, strict=True) if grade.correct is True),
        broken=tuple(
            e.id
            for e, grade in zip(rows, empty, strict=True)
            if grade.reason == "error" and is_custom(str(benchmark.grader(e)))
        ),
    )


def gold_response(grader: str, example: Example) -> str | None:
    """The gold answer as a model would write it; None where gold and answer are of different kinds."""
    gold = example.gold
    if grader in ("code", "code_functional", "code_stdio", "ifeval", "chair", "amber") or is_custom(grader):
        return None
    if isinstance(gold, list | tuple):
        gold = gold[0] if grader in ("anls", "vqa_soft") else ", ".join(map(str, gold))
    if grader in ("lmms_reasoning", "math"):
        return str(gold) if "\\boxed" in str(gold) else rf"\boxed{{{final_gold(str(gold))}}}"
    if grader == "playground":
        return f"1={gold}"
    if isinstance(gold, bool):
        return "yes" if gold else "no"
    return {"1": "Yes", "0": "No"}.get(str(gold), str(gold)) if grader == "yes_no" else str(gold)
