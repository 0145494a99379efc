"""``uniopd doctor -c CONFIG``: look at a run before its first step; takes the arguments of ``uniopd fit``."""

import difflib
from collections.abc import Sequence

from lit_uniopd.cli.commands import TRAINER_COMMANDS
from lit_uniopd.cli.early_check import refuse_wrong_options
from lit_uniopd.errors import UserError
from lit_uniopd.utils.command_parser import CommandParser


def main(argv: Sequence[str]) -> int:
    """Examine and print.

    Args:
        argv: what stands behind ``uniopd doctor``.

    Returns:
        0 if nothing is red, else 1. A mistake in the arguments is a ``UserError``, which the command line ends with 2.
    """
    parser = CommandParser(
        prog="uniopd doctor",
        description="Look at a run before its first step: what would fail or mislead, and what to do about it.",
        epilog="All other arguments are those of `uniopd fit`.",
        usage="uniopd doctor [--quick] [--stage STAGE] -c CONFIG [-c CONFIG ...] [--model.X ...] [--data.X ...]",
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="leave out what loads weights")
    parser.add_argument(
        "--stage",
        choices=tuple(TRAINER_COMMANDS),
        help="what is to be run; without it: fit what can be trained, else validate or predict, as the data are for",
    )
    options, fit_arguments = parser.parse_known_args(argv)
    for argument in fit_arguments:  # those of fit have dots, or names that are like none of these
        if near := difflib.get_close_matches(argument.partition("=")[0], ("--quick", "--stage"), n=1):
            raise UserError(
                f"{argument}: there is no such option (did you mean {near[0]}?); see `uniopd doctor --help`."
            )
    try:
        refuse_wrong_options(["fit", *fit_arguments])

        # Torch and Lightning: not before the arguments are right.
        from lit_uniopd.doctor.console import show
        from lit_uniopd.doctor.findings import exit_status
        from lit_uniopd.doctor.unstarted_run import examine

        findings = examine(fit_arguments, quick=options.quick, stage=options.stage)
    except UserError as error:
        message = str(error).replace("`uniopd fit --help` lists", "`uniopd doctor --help` and `fit --help` list")
        raise UserError(message) from error
    show(findings)
    return exit_status(findings)
