"""``uniopd compare RUN_A RUN_B``: two models on the same problems."""

from pathlib import Path

from lit_uniopd.benchmarks.records import last_evaluation
from lit_uniopd.benchmarks.report.console import wide_console
from lit_uniopd.benchmarks.report.summary import run_records
from lit_uniopd.utils.command_parser import CommandParser


def main(argv: list[str]) -> int:
    """The command line of ``uniopd compare``."""
    parser = CommandParser(prog="uniopd compare", description=__doc__)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="directory of a run")
    parser.add_argument("--rows", action="store_true", help="also list the rows that became right or wrong")
    args = parser.parse_args(argv)
    from lit_uniopd.benchmarks.compare import compare_records, comparison_table  # torch

    first, second = (last_evaluation(run_records(run)) for run in args.runs)
    comparisons = compare_records(first, second)
    console = wide_console()
    console.print(comparison_table(comparisons, (str(args.runs[0]), str(args.runs[1]))))
    for comparison in comparisons if args.rows else ():
        for title, answers in (("newly right", comparison.newly_right), ("newly wrong", comparison.newly_wrong)):
            for row, number in answers:
                console.print(f"{comparison.key} {title}: {row} (answer {number})", markup=False)
    return 0
