"""The run that arguments of ``uniopd fit`` describe, built and examined, but not started."""

import sys
import time
from typing import Any

from lightning import Trainer
from rich.console import Console

from lit_uniopd.cli.app import UniOPDCLI, run
from lit_uniopd.cli.error_messages import user_error_in
from lit_uniopd.doctor.all_checks import quiet, run_all_checks
from lit_uniopd.doctor.dry_run import Stage
from lit_uniopd.doctor.findings import Finding, complaint
from lit_uniopd.utils.progress import Heartbeat, bars_are_readable
from lit_uniopd.utils.progress_text import duration, joined

CPU = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}


class UnstartedRun(UniOPDCLI):
    """Module, datamodule and trainer of ``fit``, without fitting.

    Attributes:
        trainer_problem: what is wrong with the trainer on this machine; then it is one for the CPU.
    """

    trainer_problem: Finding | None = None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        try:
            return super().instantiate_trainer(**kwargs)
        except Exception as error:
            mistake = user_error_in(error)
            if mistake is None:
                raise
            self.trainer_problem = complaint("device", "red", f"{mistake}")
            return super().instantiate_trainer(**{**kwargs, **CPU})

    def _run_subcommand(self, subcommand: str) -> None:
        if self.trainer_problem is None:
            self._check_run()


class CheckLines:
    """Which check is under way, a line a minute where there is no terminal; logs are silent meanwhile."""

    def __init__(self) -> None:
        self.name, self.began = "reading", time.monotonic()
        self._heartbeat = Heartbeat(write=lambda text: print(text, file=sys.stderr))

    def context(self) -> str:
        return f"doctor: {self.name}"

    def line(self) -> str:
        return joined(self.context(), f"for {duration(time.monotonic() - self.began)}")

    def __enter__(self) -> None:
        if not bars_are_readable():
            self._heartbeat.begin(self)

    def __exit__(self, *_: Any) -> None:
        self._heartbeat.end(self)


def examine(fit_arguments: list[str], *, quick: bool, stage: Stage | None) -> list[Finding]:
    """Build the run and look at it, with the name of the current check on the screen.

    Args:
        fit_arguments: what would stand behind ``uniopd fit``.
        quick: leave out what loads weights.
        stage: as in `run_all_checks`.

    Raises:
        UserError: if the arguments describe no run.
    """
    lines = CheckLines()

    def on_check(name: str) -> None:
        lines.name = name
        status.update(name)

    with quiet(), lines, Console(stderr=True).status("reading") as status:
        unstarted: Any = run(["fit", *fit_arguments], UnstartedRun)
        return run_all_checks(
            unstarted.model,
            unstarted.datamodule,
            unstarted.trainer,
            quick=quick,
            stage=stage,
            trainer_problem=unstarted.trainer_problem,
            on_check=on_check,
        )
