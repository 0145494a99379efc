"""``uniopd benchmarks``: list the benchmarks, or check that they load and grade."""

import logging

from rich.console import Console
from rich.table import Table

from lit_uniopd.benchmarks.datasets import LOCAL, hub_rows
from lit_uniopd.benchmarks.harness.loading import is_harness, load_harness
from lit_uniopd.benchmarks.judging import JUDGED_HERE
from lit_uniopd.benchmarks.loading import check_golds, load_benchmark
from lit_uniopd.benchmarks.registry import all_specs, expand
from lit_uniopd.benchmarks.report.console import wide_console
from lit_uniopd.benchmarks.spec import BenchmarkSpec
from lit_uniopd.errors import UserError
from lit_uniopd.rewards import GraderPool
from lit_uniopd.utils.command_parser import CommandParser

log = logging.getLogger(__name__)


def list_benchmarks(console: Console) -> None:
    """A table of all benchmarks."""
    table = Table(title="Benchmarks", caption="verified: loaded from the hub once, gold answers checked")
    for column in ("benchmark", "domain", "rows", "metric", "answers", "licence", "verified", "note"):
        table.add_column(column, justify="right" if column in ("rows", "answers") else "left")
    for spec in all_specs():
        table.add_row(
            spec.key,
            spec.domain,
            "-" if spec.size is None else str(spec.size),
            spec.report.metrics[0]["name"] if spec.report.metrics else "-",
            str(spec.generation.n),
            spec.licence,
            "yes" if spec.verified else "no",
            _note(spec),
        )
    console.print(table)


def _note(spec: BenchmarkSpec) -> str:
    here = "`uniopd judge` judges answers" if spec.scoring.export in JUDGED_HERE else ""
    if spec.scoring.judge is None:
        return here
    exported = f"exported for {spec.scoring.judge} ({spec.scoring.export})"
    return f"{exported}; {here}" if here else exported


def check_benchmarks(names: list[str], online: bool, console: Console) -> bool:
    """Load rows, render prompts, check gold answers.

    Args:
        names: benchmarks, groups or YAML files; empty: all.
        online: load one row of each from the hub.
        console: where the table goes.

    Returns:
        Whether every benchmark passes.
    """
    table = Table(title="Gold answers accepted, empty answers refused")
    for column in ("benchmark", "rows", "checked", "result"):
        table.add_column(column)
    passed = True
    with GraderPool(workers=1) as graders:
        for spec in expand(names) if names else all_specs():
            rows, checked, result = _check_spec(spec, online, graders)
            passed = passed and result == "ok"
            table.add_row(spec.key, rows, checked, result)
    console.print(table)
    return passed


def _check_spec(spec: BenchmarkSpec, online: bool, graders: GraderPool) -> tuple[str, str, str]:
    if is_harness(spec):
        try:
            tasks = load_harness(spec, "smoke")
        except UserError as error:
            return "-", "-", str(error)
        return str(sum(len(task.examples) for task in tasks)), "-", "ok"
    local = spec.hub.id.endswith(LOCAL)  # rows on this machine
    try:
        if online and not local:
            hub_rows(spec, limit=1)
        benchmark = load_benchmark(spec, "smoke" if online or (local and spec.fixture is None) else "fixture")
        report = check_golds(benchmark, graders)
    except UserError as error:
        return "-", "-", str(error)
    counts = str(len(benchmark.examples)), str(report.checked)
    rows = {"gold refused": report.rejected, "empty accepted": report.fooled, "grader broke down": report.broken}
    return *counts, "; ".join(f"{what}: {', '.join(names)}" for what, names in rows.items() if names) or "ok"


def main(argv: list[str]) -> int:
    """The command line of ``uniopd benchmarks``."""
    parser = CommandParser(prog="uniopd benchmarks", description=__doc__)
    actions = parser.add_subparsers(dest="action")
    actions.add_parser("list", help="list them (the default)")
    check = actions.add_parser("check", help="check that rows load and that graders accept the gold answers")
    check.add_argument("names", nargs="*", help="benchmarks, groups or YAML files; none: all")
    check.add_argument("--online", action="store_true", help="read rows from the hub, not the bundled ones")
    args = parser.parse_args(argv)
    console = wide_console()
    if args.action == "check":
        return 0 if check_benchmarks(args.names, args.online, console) else 1
    list_benchmarks(console)
    return 0
