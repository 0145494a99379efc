"""Where every command line begins: nothing heavy is imported before it is known what is to be done."""

import logging
import sys
from typing import TYPE_CHECKING, Any

from lit_uniopd.cli.commands import COMMANDS, TRAINER_COMMANDS, help_parser
from lit_uniopd.cli.early_check import refuse_wrong_options
from lit_uniopd.cli.early_run_check import refuse_vain_run
from lit_uniopd.errors import UserError, explain_failure
from lit_uniopd.utils.near_names import did_you_mean
from lit_uniopd.utils.packaged_configs import with_config_paths
from lit_uniopd.utils.progress import silence_other_bars

if TYPE_CHECKING:
    from lightning.pytorch.cli import ArgsType


def main(args: "ArgsType" = None) -> None:
    """Run the command line.

    Args:
        args: arguments as on the command line, for notebooks and tests; None: those of the process.
    """
    argv: Any = sys.argv[1:] if args is None else args
    debug = isinstance(argv, list) and "--debug" in argv
    typed, UserError.on_command_line = UserError.on_command_line, True
    show_our_log()
    silence_other_bars()
    try:
        if isinstance(argv, list):
            argv = spell_out([arg for arg in argv if arg != "--debug"])
            answer_without_trainer(argv)
            refuse_wrong_options(argv)
            refuse_vain_run(argv)
        from lit_uniopd.cli.app import run_process

        run_process(argv)
    except Exception as error:
        mistake = mistake_behind(error)
        if debug or mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        UserError.on_command_line = typed or args is None  # a notebook goes on in Python


def answer_without_trainer(argv: list[str]) -> None:
    """Help, our own commands and commands that do not exist; returns if the arguments are for `LightningCLI`.

    Raises:
        SystemExit: when a command is done.
        UserError: if no command is given, or an unknown one.
    """
    if not argv:
        help_parser().print_help()
        raise UserError("There is no subcommand; give one of those that `uniopd --help` lists.")
    if argv[0] in ("-h", "--help"):
        help_parser().print_help()
        raise SystemExit
    if argv[0] in COMMANDS:
        raise SystemExit(COMMANDS[argv[0]].run(argv[1:]))
    if not argv[0].startswith("-") and argv[0] not in TRAINER_COMMANDS:
        meant = did_you_mean(argv[0], [*TRAINER_COMMANDS, *COMMANDS])
        raise UserError(f"There is no subcommand {argv[0]!r}{meant}; give one of those that `uniopd --help` lists.")


def spell_out(argv: list[str]) -> list[str]:
    """``--profile`` in full (an option this common should not need its prefix), and the files of configs' names."""
    argv = with_config_paths(argv)
    return ["--data." + arg[2:] if arg == "--profile" or arg.startswith("--profile=") else arg for arg in argv]


def show_our_log() -> None:
    """Print what our packages log (counts of dropped rows, routes, paths), and leave other libraries as they are."""
    for package in ("lit_uniopd", "callbacks", "datamodules"):
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        if not logger.handlers:
            logger.addHandler(_StandardError())


class _StandardError(logging.StreamHandler):
    """Writes to what is standard error by then: a notebook that redirects it may call ``main`` twice."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def mistake_behind(error: Exception) -> UserError | None:
    """The one sentence to print for an error; None: the error is ours, and its traceback is needed."""
    if isinstance(error, UserError):
        return error
    from lit_uniopd.cli.error_messages import user_error_in

    return user_error_in(error) or explain_failure(error)
