"""Are the data there, and do their graders accept their own gold answers?"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lit_uniopd.benchmarks.golds import benchmark_objections
from lit_uniopd.benchmarks.heldout import heldout_benchmarks
from lit_uniopd.benchmarks.loading import GoldReport, check_golds, load_benchmarks
from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.doctor.dry_run import Case, complaints, count_names
from lit_uniopd.doctor.findings import Finding, complaint, green, red, shown, yellow
from lit_uniopd.errors import UserError
from lit_uniopd.modules.lossy_sources import source_objections
from lit_uniopd.modules.opd.outcomes import gold_objections, outcome_users
from lit_uniopd.rewards import is_custom
from lit_uniopd.scorers import GraderScore
from lit_uniopd.types import Prompt

GOLDS = 64
"""Gold answers of each domain that are graded, spread evenly over its rows."""


def check_data(case: Case) -> Iterator[Finding]:
    """Read the data as the run would, and count what is left."""
    if case.data is None:
        return
    with complaints("data") as problems, lengths_unknown(case):
        if hasattr(case.data, "specs"):
            problems.extend(_unavailable_benchmarks(case.data))
        else:
            case.data.prepare_data()
            case.data.setup(case.stage)
    yield from problems
    splits = {"training": case.train_prompts, "validation": case.val_prompts, "prediction": case.predict_prompts}
    for split, prompts in splits.items():
        if prompts:
            yield green("data", f"{len(prompts):,} {split} prompts ({count_names([p.domain for p in prompts])}).")
    for split, pairs in (("training", case.train_pairs), ("validation", case.trainer_data.val_pairs)):
        if pairs:
            yield green("data", f"{len(pairs):,} {split} pairs ({count_names([p.pair.prompt.domain for p in pairs])}).")
    if case.benchmarks:
        counts = ", ".join(f"{benchmark.spec.id} {len(benchmark.examples):,}" for benchmark in case.benchmarks)
        yield green("data", f"Rows of {len(case.benchmarks)} benchmarks: {counts}.")
    if case.student.name in case.missing and (case.train_prompts or case.train_pairs or case.predict_prompts):
        remedy = f"Make --{case.student.flag}.path readable first; long rows are dropped or cut by its tokens."
        yield yellow("data", "Rows were read, but not measured.", remedy)
    else:
        yield from shown(source_objections(case.trainer_data.reports))


@contextmanager
def lengths_unknown(case: Case) -> Iterator[None]:
    """Without the student's tokenizer, still read columns and rows: nothing is too long then."""
    if case.student.name not in case.missing:
        yield
        return
    module = case.module
    module.prompt_length = lambda prompt: 0
    module.encode_answer = lambda prompt, answer: ([0], list(answer.encode()))
    try:
        yield
    finally:
        del module.prompt_length, module.encode_answer


def _unavailable_benchmarks(data: Any) -> Iterator[Finding]:
    """Load each benchmark that is available, and report the others together."""
    errors: dict[str, UserError] = {}
    data.benchmarks = []
    for spec in data.specs:
        try:
            data.benchmarks += load_benchmarks([spec], data.profile, limit=data.limit)
        except UserError as error:
            errors[spec.key] = error
    if errors:
        first = complaint("data", "red", str(next(iter(errors.values()))))
        count = f"{len(errors)} of {len(data.specs)} benchmarks cannot be had ({', '.join(errors)}). "
        yield red("data", (count if len(errors) > 1 else "") + first.message, first.remedy)


def check_graders(case: Case) -> Iterator[Finding]:
    """Let graders judge gold answers and empty ones; off-policy objectives grade nothing while they train."""
    if (case.stage == "fit" and not case.on_policy) or case.detectors:
        return
    if case.scorers and not any(isinstance(scorer, GraderScore) for scorer in case.scorers):
        return  # something else judges
    module = case.module
    splits = (*case.train_prompts, *case.val_prompts, *case.predict_prompts)
    prompts = list({id(prompt): prompt for prompt in splits}.values())  # splits may share rows
    users: list[str] = []
    if case.on_policy:
        users = outcome_users(module.advantage, case.trainer, module.teachers.showing_best)
    ungraded = bool(case.train_prompts) and all(prompt.grader is None for prompt in case.train_prompts)
    if case.on_policy and ungraded and not users:
        yield yellow(
            "golds",
            "No training prompt has a grader: outcomes are unknown.",
            "Name one by --data.train.grader to see accuracies and to use margin calibration and balancing.",
        )
    if case.scorers and prompts and all(prompt.grader is None for prompt in prompts):
        yield red(
            "golds",
            "No prompt has a grader, and answers are scored by their graders.",
            "Name one by --data.predict.grader, or another --trainer.callbacks.scorer.",
        )
    incomplete = [p for p in prompts if p.grader is not None and p.gold is None and not is_custom(p.grader)]
    if incomplete:
        yield red(
            "golds",
            f"{len(incomplete):,} prompts have a grader and no gold answer, {incomplete[0].id!r} for one.",
            "Name the column that holds it by --data.train.answer_column, or set the grader null to train without "
            "outcomes.",
        )
        left_out = set(map(id, incomplete))
        prompts = [p for p in prompts if id(p) not in left_out]
    with complaints("golds") as problems:
        benchmarks = case.trainer_data.benchmarks_in_fit if case.stage == "fit" else case.benchmarks
        rows = list(heldout_benchmarks(prompts, module.val_sampling, "train").values())
        problems.extend(_grade_golds(case, rows + benchmarks))
        trained = [p for p in case.train_prompts if p.gold is not None or ungraded or is_custom(p.grader or "")]
        problems.extend(_tried_golds(case, trained, benchmarks, users))
    refused = any("refused by their own grader" in problem.message for problem in problems)
    yield from (finding for finding in problems if not (refused and finding.status == "yellow"))


def _tried_golds(case: Case, trained: list[Prompt], benchmarks: list[Benchmark], users: list[str]) -> Iterator[Finding]:
    """What ``fit`` says of gold answers that their grader cannot use."""
    graders, sampling = case.module.graders, case.module.val_sampling
    splits = {"val": case.val_prompts, "predict": case.predict_prompts}
    heldout = [b for split, prompts in splits.items() for b in heldout_benchmarks(prompts, sampling, split).values()]
    if case.on_policy:
        yield from shown(gold_objections(trained, graders, users))
    for benchmark in [*heldout, *benchmarks]:
        yield from shown(benchmark_objections(benchmark, graders))


def _grade_golds(case: Case, benchmarks: list[Benchmark]) -> Iterator[Finding]:
    accepted = sampled = rows = 0
    graders: set[str] = set()
    for benchmark in benchmarks:
        examples = benchmark.examples
        sample = replace(benchmark, examples=examples[:: -(-len(examples) // GOLDS)])
        names = {str(name) for example in sample.examples if (name := sample.grader(example)) is not None}
        try:
            case.module.graders.prepare(names)
        except UserError as error:
            yield complaint(f"golds {benchmark.spec.id}", "red", str(error))
            continue
        report = check_golds(sample, case.module.graders)
        yield from _rejected(f"golds {benchmark.spec.id}", report)
        accepted += report.checked - len(report.rejected)
        sampled, rows = sampled + len(sample.examples), rows + len(examples)
        graders |= names
    if graders:
        how = f"{', '.join(sorted(graders))}; {sampled:,} of {rows:,} rows tried"
        tests = ", golds that are tests aside" if accepted < sampled else ""
        yield green("golds", f"{accepted:,} gold answers are accepted{tests}, and empty ones refused ({how}).")


def _rejected(name: str, report: GoldReport) -> Iterator[Finding]:
    if report.rejected:
        yield red(
            name,
            f"{len(report.rejected)} of {report.checked} gold answers are refused by their own grader, that of "
            f"{report.rejected[0]!r} for one.",
            "Choose the grader that takes this form of answer by --data.train.grader, or mend the answer column.",
        )
    if report.fooled:
        yield red(
            name,
            f"An empty answer is accepted for {len(report.fooled)} rows, {report.fooled[0]!r} for one.",
            "Mend these rows' gold answers, or choose a stricter grader by --data.train.grader.",
        )
