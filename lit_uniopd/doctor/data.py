"""Are the data there, and do their graders accept their own gold answers?"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lit_uniopd.benchmarks.heldout import heldout_benchmarks
from lit_uniopd.benchmarks.loading import check_golds
from lit_uniopd.benchmarks.spec import Benchmark
from lit_uniopd.doctor.case import Case, complaints, counted
from lit_uniopd.doctor.findings import Finding, green, red, yellow
from lit_uniopd.doctor.settings import calibrations
from lit_uniopd.errors import UserError

GOLDS = 64
"""Gold answers of each domain that are graded, spread evenly over its rows."""
MANY = 0.1
"""Share of dropped rows that is worth a look."""


def check_data(case: Case) -> Iterator[Finding]:
    """Read the data as the run would, and count what is left."""
    if case.data is None:
        return
    with complaints("data") as problems:
        case.module.prepare_data()
        case.data.prepare_data()
        case.data.setup(case.stage)
    yield from problems
    for split, prompts in (("training", case.train_prompts), ("validation", case.val_prompts)):
        if prompts:
            yield green("data", f"{len(prompts):,} {split} prompts ({counted([p.domain for p in prompts])}).")
    for split, pairs in (("training", case.train_pairs), ("validation", getattr(case.data, "val_pairs", ()))):
        if pairs:
            yield green("data", f"{len(pairs):,} {split} pairs ({counted([p.pair.prompt.domain for p in pairs])}).")
    for benchmark in case.benchmarks:
        yield green("data", f"{len(benchmark.examples):,} rows of {benchmark.key}.")
    yield from _dropped(case.data)


def _dropped(data: Any) -> Iterator[Finding]:
    """What the datamodule's report says was left out."""
    report: Any = getattr(data, "report", {})
    found = {flag: source if isinstance(source, list) else [source] for flag, source in report.items()}
    for flag, source in ((flag, source) for flag, sources in found.items() for source in sources):
        lost = sum(getattr(source, name, 0) for name in ("too_long", "long_prompts", "identical", "empty"))
        if lost > MANY * source.rows:
            yield yellow(
                "data",
                f"{flag.removeprefix('--data.')} loses {lost / source.rows:.0%} of its rows: {source}.",
                "Raise --data.max_prompt_tokens (or max_length), or mend the rows, so that what is left is the data "
                "you mean.",
            )


def check_graders(case: Case) -> Iterator[Finding]:
    """Let graders judge gold answers and empty ones."""
    module = case.module
    prompts = [] if case.train_pairs else case.train_prompts + case.val_prompts
    if case.pool is not None and case.train_prompts and all(prompt.grader is None for prompt in case.train_prompts):
        yield from _without_outcomes(case)
    incomplete = [p for p in prompts if p.grader is not None and p.gold is None]
    if incomplete:
        yield red(
            "golds",
            f"{len(incomplete):,} prompts have a grader and no gold answer, {incomplete[0].id!r} for one.",
            "Name the column that holds it by --data.train.answer_column, or set the grader null to train without "
            "outcomes.",
        )
        prompts = [p for p in prompts if p.gold is not None]
    benchmarks = list(heldout_benchmarks(prompts, module.val_sampling, "train").values()) + case.benchmarks
    for benchmark in benchmarks:
        yield _golds(case, benchmark)


def _without_outcomes(case: Case) -> Iterator[Finding]:
    needing = [type(plug).__name__ for plug in calibrations(case)]
    needing += ["--data.online_balance"] if getattr(case.data, "online_balance", None) is not None else []
    needing += ["--model.advantage.outcome_weight"] if case.module.advantage.outcome_weight else []
    found, remedy = "No training prompt has a grader: outcomes are unknown", "Name one by --data.train.grader"
    if needing:
        yield red("golds", f"{found}, and {', '.join(needing)} can do nothing.", f"{remedy}, or leave these out.")
    else:
        yield yellow("golds", f"{found}.", f"{remedy} to see accuracies and to use margin calibration and balancing.")


def _golds(case: Case, benchmark: Benchmark) -> Finding:
    every = benchmark.examples
    sample = replace(benchmark, examples=every[:: -(-len(every) // GOLDS)])
    name = f"golds {benchmark.spec.id}"
    names = sorted({str(grader) for example in sample.examples if (grader := sample.grader(example)) is not None})
    if not names:
        return green(name, "These rows are not graded.")
    try:
        case.module.graders.prepare(names)
    except UserError as error:
        found, _, remedy = str(error).rstrip(".").rpartition("; ")
        return red(name, f"{found}.", f"{remedy}.")
    report = check_golds(sample, case.module.graders)
    how = f"({', '.join(names)}; {len(sample.examples)} of {len(every):,} rows tried)"
    if report.rejected:
        return red(
            name,
            f"{len(report.rejected)} of {report.checked} gold answers are refused by their own grader, that of "
            f"{report.rejected[0]!r} for one {how}.",
            "Choose the grader that takes this form of answer by --data.train.grader, or mend the answer column.",
        )
    if report.fooled:
        return red(
            name,
            f"An empty answer is accepted for {len(report.fooled)} rows, {report.fooled[0]!r} for one {how}.",
            "Mend these rows' gold answers, or choose a stricter grader by --data.train.grader.",
        )
    if not report.checked:
        return green(name, f"Empty answers are refused; these golds are tests, not answers {how}.")
    return green(name, f"{report.checked} gold answers are accepted, empty ones refused {how}.")
