"""``uniopd doctor -c CONFIG``: look at a run before its first step; takes the arguments of ``uniopd fit``."""

from collections.abc import Sequence
from typing import Any, get_args

from lightning import Trainer
from rich.console import Console

from lit_uniopd.cli.app import UniOPDCLI, run
from lit_uniopd.cli.error_messages import user_error_in
from lit_uniopd.doctor.all_checks import quiet, run_all_checks
from lit_uniopd.doctor.console import show
from lit_uniopd.doctor.dry_run import Stage
from lit_uniopd.doctor.findings import Finding, complaint, exit_status
from lit_uniopd.errors import UserError
from lit_uniopd.utils.command_parser import CommandParser

CPU = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}


class Unstarted(UniOPDCLI):
    """Module, datamodule and trainer of ``fit``, without fitting.

    Attributes:
        misfit: what is wrong with the trainer on this machine; then it is one for the CPU.
    """

    misfit: Finding | None = None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        try:
            return super().instantiate_trainer(**kwargs)
        except Exception as error:
            mistake = user_error_in(error)
            if mistake is None:
                raise
            self.misfit = complaint("device", "red", f"{mistake}")
            return super().instantiate_trainer(**{**kwargs, **CPU})

    def _run_subcommand(self, subcommand: str) -> None:
        if self.misfit is None:
            self._check_run()


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
        choices=get_args(Stage),
        help="what is to be run; without it: fit what can be trained, else validate or predict, as the data are for",
    )
    args, rest = parser.parse_known_args(argv)
    with quiet(), Console(stderr=True).status("reading") as status:
        try:
            begun: Any = run(["fit", *rest], Unstarted)
        except UserError as error:
            ours = str(error).replace("`uniopd fit --help` lists", "`uniopd doctor --help` and `fit --help` list")
            raise UserError(ours) from error
        found = run_all_checks(
            begun.model,
            begun.datamodule,
            begun.trainer,
            quick=args.quick,
            stage=args.stage,
            misfit=begun.misfit,
            on_check=status.update,
        )
    show(found)
    return exit_status(found)
