"""Gold answers, tried by their graders before anything expensive starts."""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_uniopd.benchmarks.heldout import example_of
from lit_uniopd.benchmarks.loading import gold_response
from lit_uniopd.benchmarks.spec import Benchmark, Example
from lit_uniopd.grade import KILLED
from lit_uniopd.rewards import Grade, GradeItem, GraderPool, is_custom
from lit_uniopd.rewards.boxes import final_gold, is_written_out
from lit_uniopd.rewards.grade import breakdown_of
from lit_uniopd.types import Prompt
from lit_uniopd.utils.objections import Objection

TRIED = 128
"""Gold answers of each grader that are tried, spread evenly over its prompts."""
TRIED_CUSTOM = 4
"""Of a user's grader, which may take long or cost money; what form its golds have is its own affair."""
OTHER = r"\boxed{271828}"
"""An answer that is not the gold's own text, which `math` accepts unread. It holds no program, so that none is run."""
FEW = 0.05
"""Share of unusable ones beyond which it is warned of."""
MANY = 0.5
"""Share beyond which a run stops that needs outcomes."""


@dataclass(frozen=True, slots=True)
class GoldTrial:
    """How one grader judged some gold answers."""

    grader: str
    tried: int
    unknown: tuple[Prompt | Example, ...]
    """Their outcomes stay unknown, whatever the answer: the gold has another form than the grader's."""
    refused: tuple[Prompt | Example, ...]
    """The gold answer itself is judged wrong."""

    @property
    def unusable(self) -> tuple[Prompt | Example, ...]:
        return self.unknown + self.refused


def try_golds(prompts: Sequence[Prompt], graders: GraderPool) -> list[GoldTrial]:
    """Let each grader judge gold answers, written as a model would; golds that are tests are read, not run.

    Args:
        prompts: those without a grader are passed over.
        graders: judge them.
    """
    return _try_each(prompts, lambda prompt: (prompt.grader, {}), graders)


def try_benchmark(benchmark: Benchmark, graders: GraderPool) -> list[GoldTrial]:
    """The same for the rows of a benchmark, whose graders have options."""
    options = benchmark.spec.scoring.options
    return _try_each(
        benchmark.examples, lambda example: (benchmark.grader(example), {**options, **example.options}), graders
    )


def _try_each(
    rows: Sequence[Any], judged_by: Callable[[Any], tuple[str | None, Mapping[str, Any]]], graders: GraderPool
) -> list[GoldTrial]:
    """A trial for each grader of rows; ``judged_by`` gives a row's, and its keyword arguments."""
    numbers: dict[str, array[int]] = {}  # not the rows: there may be millions
    for number, row in enumerate(rows):
        if (name := judged_by(row)[0]) is not None:
            numbers.setdefault(name, array("q")).append(number)
    trials: list[GoldTrial] = []
    for name, graded in numbers.items():
        tried = TRIED_CUSTOM if is_custom(name) else TRIED
        sample = [rows[number] for number in graded[:: -(-len(graded) // tried)]]
        trials.append(_try(name, [(row, judged_by(row)[1]) for row in sample], graders))
    return trials


def _try(name: str, sample: Sequence[tuple[Prompt | Example, Mapping[str, Any]]], graders: GraderPool) -> GoldTrial:
    custom = is_custom(name)
    examples = [row if isinstance(row, Example) else example_of(row) for row, _ in sample]
    responses = [gold_response(name, example) for example in examples]
    gold_items = [
        GradeItem(name, row.gold, answer or (str(row.gold) if custom else ""), row.row, options, row.messages)
        for (row, options), answer in zip(sample, responses, strict=True)
    ]
    grades = graders.grade([*gold_items, *(replace(item, response=OTHER) for item in gold_items)])
    judged = list(zip(sample, responses, grades[: len(gold_items)], grades[len(gold_items) :], strict=True))
    broken = (lambda pair: all(grade.reason == "error" for grade in pair)) if custom else _is_unreadable
    unknown = tuple(row for (row, _), _, *pair in judged if broken(pair))
    refused = tuple(
        row
        for (row, _), response, grade, _ in judged
        # Of several golds any one may be too rare to be right by itself.
        if (grade.correct is False and grade.reason not in KILLED) or _equals_itself_alone(name, str(row.gold))
        if response is not None and not isinstance(row.gold, list | tuple)
    )
    return GoldTrial(name, len(sample), unknown, refused)


def _equals_itself_alone(grader: str, gold: str) -> bool:
    """Whether a gold answer is right by its own text, and by no answer that a model would give."""
    if grader in ("exact", "anls", "vqa_soft"):
        return final_gold(gold) != gold
    return grader == "math" and is_written_out(gold)


def _is_unreadable(grades: Iterable[Grade]) -> bool:
    """A busy machine or a missing sandbox says nothing about the gold answer."""
    return any(grade.correct is None and grade.reason not in (*KILLED, "unsafe") for grade in grades)


def benchmark_objections(benchmark: Benchmark, graders: GraderPool) -> Iterator[Objection]:
    """What the gold answers of a benchmark make impossible."""
    rows, option = f"rows of benchmark {benchmark.name}", "`grader` in the benchmark's YAML file"
    if benchmark.is_heldout:
        split = benchmark.spec.protocol
        rows = f"{'held-out ' if split == 'val' else f'{split} '}prompts of {benchmark.name}"
        option = f"--data.{split}.grader or in the column `grader`"
    yield from trial_objections(try_benchmark(benchmark, graders), rows, option)


def trial_objections(
    trials: Iterable[GoldTrial], rows: str, option: str, users: Sequence[str] = ()
) -> Iterator[Objection]:
    """What trials of gold answers say against a run.

    Args:
        trials: one for each grader.
        rows: whose answers were tried, in the plural.
        option: where their grader is named.
        users: what needs their outcomes.
    """
    for trial in trials:
        where = f"of {trial.tried} {rows} that were tried"
        if is_custom(trial.grader):
            if trial.unknown:
                yield Objection(
                    "golds",
                    f"Grader {trial.grader!r} broke down on {len(trial.unknown)} {where} "
                    f"({breakdown_of(trial.grader)}); mend it, or name another by {option}.",
                    refused=len(trial.unknown) == trial.tried,
                )
        elif users and len(trial.unknown) > MANY * trial.tried:
            yield Objection(
                "golds",
                f"{_complaint(trial, trial.unknown, where)}: outcomes stay unknown, and {', '.join(users)} can do "
                f"nothing; name the grader that takes this form by {option}, or rewrite the answers in the form of "
                "this one (docs/own_models.md).",
                refused=True,
            )
        elif len(trial.unusable) > FEW * trial.tried:
            yield Objection(
                "golds",
                f"{_complaint(trial, trial.unusable, where)}: {len(trial.unknown)} stay unknown, {len(trial.refused)} "
                f"count as wrong, whatever the answer; name another grader by {option}, or mend the answers "
                "(docs/own_models.md).",
            )


def _complaint(trial: GoldTrial, rows: Sequence[Prompt | Example], where: str) -> str:
    return (
        f"Grader {trial.grader!r} cannot use the gold answers of {len(rows)} {where}, that of {rows[0].id!r} for one "
        f"({_form(rows[0].gold)})"
    )


def _form(gold: Any) -> str:
    """What a gold answer looks like, in a few words."""
    try:
        fields = json.loads(gold) if isinstance(gold, str) else gold
    except ValueError:
        fields = gold
    return f"a mapping of {', '.join(map(str, fields))}" if isinstance(fields, Mapping) else repr(gold)[:60]
