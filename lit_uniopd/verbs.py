"""``uniopd VERB``: what needs no trainer."""

import argparse
import importlib
from dataclasses import dataclass
from typing import NoReturn

from lit_uniopd.errors import UserError


class VerbParser(argparse.ArgumentParser):
    """Says what is wrong with a verb's arguments in one sentence, where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see `{self.prog} --help`.")


@dataclass(frozen=True, slots=True)
class Verb:
    """A command beside ``fit``, ``validate``, ``test`` and ``predict``."""

    module: str
    """Its ``main(argv)`` takes the arguments behind the verb, returns the exit status; imported when it is called."""
    help: str
    """One line of ``uniopd --help``."""

    def run(self, argv: list[str]) -> int:
        return importlib.import_module(self.module).main(argv)


VERBS = {
    "doctor": Verb("lit_uniopd.doctor.verb", "Look at a run before its first step: what would fail, and what to do."),
    "benchmarks": Verb("lit_uniopd.benchmarks.verbs", "List the benchmarks, or check that they load and grade."),
    "regrade": Verb("lit_uniopd.benchmarks.regrade", "Judge the recorded answers of a run anew, without a model."),
    "compare": Verb("lit_uniopd.benchmarks.compare", "Compare the benchmark scores of two runs, with intervals."),
    "export": Verb("lit_uniopd.export", "Turn a checkpoint into a Hugging Face directory, or its adapter into PEFT's."),
    "view": Verb("lit_uniopd.view.verb", "Write one HTML file with every token of a run's chosen rollouts and pairs."),
}
