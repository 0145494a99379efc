"""``uniopd regrade RUN``: judge recorded answers anew, without a model."""

from pathlib import Path

from lit_uniopd.benchmarks.report.console import wide_console
from lit_uniopd.errors import UserError
from lit_uniopd.rewards import GraderPool, named_grader
from lit_uniopd.utils.command_parser import CommandParser


def main(argv: list[str]) -> int:
    """The command line of ``uniopd regrade``."""
    parser = CommandParser(prog="uniopd regrade", description=__doc__)
    parser.add_argument("run", type=Path, help="directory of a run, e.g. runs/benchmarks/version_0")
    parser.add_argument(
        "--grader",
        action="append",
        default=[],
        help="one of your own that the records name, my_module.is_right; again for more",
    )
    parser.add_argument("--workers", type=int, default=2, help="grading processes")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds that one answer may take")
    args = parser.parse_args(argv)
    if not args.run.is_dir():
        raise UserError(f"{args.run} is no directory; give that of a run, e.g. runs/benchmarks/version_0.")
    for name in args.grader:
        named_grader(name)
    from lit_uniopd.benchmarks.regrade import changes_table, regrade  # torch

    with GraderPool(workers=args.workers, time_limit=args.timeout) as graders:
        old, new = regrade(args.run, graders)
    wide_console().print(changes_table(old, new))
    return 0
