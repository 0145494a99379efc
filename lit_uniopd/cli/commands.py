"""The commands of ``uniopd``, and the help that lists them. Imports nothing heavy."""

import argparse
import importlib
from dataclasses import dataclass

ABOUT = (
    "Distil, align and evaluate language models: Uni-OPD, Omni-DPO, SENTINEL. Start with `uniopd fit -c CONFIG`. "
    "`uniopd --version` names the versions of the stack; --debug behind any command keeps the traceback of an error."
)

TRAINER_COMMANDS = {
    "fit": "Train, and validate on the way.",
    "validate": "Score a model on its validation data, or on benchmarks.",
    "test": "The same on --data.test.",
    "predict": "Write what a model answers: predictions, pass counts, preference pairs, sentence pairs.",
}
"""Those of `LightningCLI`, each with its line of ``uniopd --help``."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that parses its own arguments."""

    module: str
    """Its ``main(argv)`` takes the arguments behind the command and returns the exit status; imported when called."""
    help: str
    """One line of ``uniopd --help``."""

    def run(self, argv: list[str]) -> int:
        return importlib.import_module(self.module).main(argv)


COMMANDS = {
    "new": Command(
        "lit_uniopd.cli.new_command", "Write a small project of your own: module, data, callback, grader, config, test."
    ),
    "doctor": Command("lit_uniopd.doctor.cli", "Look at a run before its first step: what would fail, and what to do."),
    "data": Command("lit_uniopd.cli.data_command", "Show what rows become: prompts, gold answers, pairs, counts."),
    "benchmarks": Command("lit_uniopd.benchmarks.cli", "List the benchmarks, or check that they load and grade."),
    "regrade": Command(
        "lit_uniopd.benchmarks.regrade_cli", "Judge the recorded answers of a run anew, without a model."
    ),
    "judge": Command(
        "lit_uniopd.benchmarks.judging.cli", "Let a model judge the answers to benchmarks that no rule can score."
    ),
    "compare": Command(
        "lit_uniopd.benchmarks.compare_cli", "Compare the benchmark scores of two runs, with intervals."
    ),
    "export": Command(
        "lit_uniopd.cli.export_command", "Turn a checkpoint into a Hugging Face directory, or its adapter into PEFT's."
    ),
    "push": Command("lit_uniopd.cli.push_command", "Send what a run trained to the Hugging Face hub, with a card."),
    "convert": Command("lit_uniopd.cli.convert_command", "Turn a GGUF file into a Hugging Face directory."),
    "view": Command(
        "lit_uniopd.view.cli", "Write one HTML file with every token of a run's chosen rollouts and pairs."
    ),
}


def help_parser() -> argparse.ArgumentParser:
    """The parser behind ``uniopd --help``, which parses nothing else: commands have parsers of their own."""
    parser = argparse.ArgumentParser("uniopd", usage="uniopd COMMAND ...", description=ABOUT)
    parser.add_argument("--version", action="store_true", help="Print the versions of the stack.")
    parser.add_argument("--print_completion", metavar="SHELL", help="Print a script for completion: shtab-bash, say.")
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", description="`uniopd COMMAND --help` lists the options of each."
    )
    for name, sentence in {**TRAINER_COMMANDS, **{name: command.help for name, command in COMMANDS.items()}}.items():
        subparsers.add_parser(name, help=sentence)
    return parser
