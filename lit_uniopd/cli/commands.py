"""``uniopd VERB``: what needs no trainer."""

import importlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """A command beside ``fit``, ``validate``, ``test`` and ``predict``."""

    module: str
    """Its ``main(argv)`` takes the arguments behind the verb, returns the exit status; imported when it is called."""
    help: str
    """One line of ``uniopd --help``."""

    def run(self, argv: list[str]) -> int:
        return importlib.import_module(self.module).main(argv)


COMMANDS = {
    "doctor": Command("lit_uniopd.doctor.cli", "Look at a run before its first step: what would fail, and what to do."),
    "benchmarks": Command("lit_uniopd.benchmarks.cli", "List the benchmarks, or check that they load and grade."),
    "regrade": Command(
        "lit_uniopd.benchmarks.regrade_cli", "Judge the recorded answers of a run anew, without a model."
    ),
    "compare": Command(
        "lit_uniopd.benchmarks.compare_cli", "Compare the benchmark scores of two runs, with intervals."
    ),
    "export": Command(
        "lit_uniopd.cli.export", "Turn a checkpoint into a Hugging Face directory, or its adapter into PEFT's."
    ),
    "view": Command(
        "lit_uniopd.view.cli", "Write one HTML file with every token of a run's chosen rollouts and pairs."
    ),
}
