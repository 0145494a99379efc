"""``uniopd doctor -c CONFIG``: look at a run before its first step; takes the arguments of ``uniopd fit``."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from lit_uniopd.cli import UniOPDCLI, run
from lit_uniopd.doctor.examine import examine, quiet
from lit_uniopd.doctor.findings import exit_status
from lit_uniopd.doctor.screen import show


class Unstarted(UniOPDCLI):
    """Module, datamodule and trainer of ``fit``, without fitting."""

    def _run_subcommand(self, subcommand: str) -> None:
        self._check_run()


def main(argv: Sequence[str]) -> int:
    """Examine and print.

    Args:
        argv: what stands behind ``uniopd doctor``.

    Returns:
        0 if nothing is red, else 1. A mistake in the arguments is a ``UserError``, which the command line ends with 2.
    """
    parser = argparse.ArgumentParser(
        prog="uniopd doctor", description=__doc__, usage="uniopd doctor [--quick] -c CONFIG ...", allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="leave out what loads weights")
    args, rest = parser.parse_known_args(argv)
    with quiet(), Console(stderr=True).status("reading") as status:
        begun = run(["fit", *rest], Unstarted)
        found = examine(begun.model, begun.datamodule, begun.trainer, quick=args.quick, on_check=status.update)
    show(found)
    return exit_status(found)
