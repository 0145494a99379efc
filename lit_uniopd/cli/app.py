"""The command line: LightningCLI with our modules, one-sentence errors, and the config as text in TensorBoard."""

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, set_parsing_settings
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.model_helpers import is_overridden

from lit_uniopd.cli.commands import COMMANDS
from lit_uniopd.cli.error_messages import OneSentenceParser, check_configs, trainer_mistake, user_error_in
from lit_uniopd.distributed.atomic_checkpoint import check_checkpoint, newest_first
from lit_uniopd.distributed.sharded_checkpoint import finish_replacement, is_sharded_checkpoint
from lit_uniopd.errors import UserError, explain_failure
from lit_uniopd.utils.stop_request import Stopped
from lit_uniopd.utils.warning_filters import install_filters

ABOUT = (
    "Distil, align and evaluate language models: Uni-OPD, Omni-DPO, SENTINEL. Start with `uniopd fit -c CONFIG`. "
    "`uniopd --version` names the versions of the stack; --debug behind any command keeps the traceback of an error."
)

HELP = {
    "fit": "Train, and validate on the way.",
    "validate": "Score a model on its validation data, or on benchmarks.",
    "test": "The same on --data.test.",
    "predict": "Write what a model answers: predictions, pass counts, preference pairs, sentence pairs.",
}


class ConfigRecorder(SaveConfigCallback):
    """Write the resolved config to the run's directory and, as text, to TensorBoard."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Without a logger a run has no directory of its own: the file would land in the working directory, and stop
        # the next run there (a killed `predict` that goes on, say).
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                text = self.parser.dump(self.config, skip_none=False)
                logger.experiment.add_text("config", "    " + text.replace("\n", "\n    "), trainer.global_step)


class UniOPDCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` for any of our modules and datamodules."""

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Name our verbs in the help and in the completion too; ``main`` runs them before anything is parsed."""
        super()._add_subcommands(parser, **kwargs)
        known: Any = parser._subcommands_action  # jsonargparse keeps it for itself
        for listed in known._choices_actions:  # Lightning's sentences are cut in the middle
            listed.help = HELP[listed.dest]
        for name, sentence in HELP.items():  # thirty lines of options tell nobody how to call it
            own = self._subcommand_parsers[name]
            own.description = sentence
            own.usage = f"uniopd {name} -c CONFIG [-c CONFIG ...] [--trainer.X ...] [--model.X ...] [--data.X ...]"
        for name, verb in COMMANDS.items():
            known.add_subcommand(name, ArgumentParser(description=verb.help), help=verb.help)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Look at the config files first."""
        if isinstance(args, list):
            verbs = getattr(self, "_subcommand_parsers", {})  # there are none with run=False
            options = {action.dest for own in verbs.values() or [parser] for action in own._actions}
            keys = {option.partition(".")[0] for option in options} - {"help", "print_config"}
            check_configs(args, keys | set(HELP))  # a file before the verb has its settings below the verb
        super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Take nothing from the checkpoint: our record is the config.

        Lightning would read the whole file here in search of hyper-parameters, and fail on a damaged one before it
        could be told of.
        """

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError) as error:  # a strategy or devices that there are not
            raise trainer_mistake(error) from error

    def before_fit(self) -> None:
        if not is_overridden("training_step", self.model):
            raise UserError(f"{type(self.model).__name__} trains nothing; use `uniopd validate`, or another --model.")
        self._check_run()

    def before_validate(self) -> None:
        self._check_run()

    def before_test(self) -> None:
        self._check_run()

    def before_predict(self) -> None:
        self._check_run()

    def _check_run(self) -> None:
        """What can be known to fail should fail before models are loaded."""
        config = self.config_init[str(self.subcommand)]
        if self.subcommand in ("validate", "test"):
            config.verbose = False  # our table has what Lightning's has, by domain and with intervals
        # Checkpoints are read without executing pickles; ours hold nothing that would need them.
        config.weights_only = True
        for logger in self.trainer.loggers:
            if logger.save_dir is not None:
                check_writable(Path(logger.save_dir))
        if config.get("ckpt_path"):
            config.ckpt_path = find_checkpoint(config.ckpt_path, self.trainer)


def check_writable(directory: Path) -> None:
    """Make the directory, or say in one sentence why not.

    Raises:
        UserError: naming the flag.
    """
    probe = directory / ".writable"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"Cannot write to {directory} ({error.strerror}); choose another directory by --trainer.logger.save_dir."
        ) from error


def find_checkpoint(path: str, trainer: Trainer) -> str:
    """The checkpoint to resume from; ``last`` is the newest ``last.ckpt`` of any version of this run.

    Lightning itself would look in the new, still empty version directory, and start from scratch.

    Raises:
        UserError: if there is none, or it is not whole.
    """
    flag = "--ckpt_path"
    if path == "last":
        logger = trainer.logger
        root = Path(logger.root_dir) if isinstance(logger, TensorBoardLogger) else Path(trainer.default_root_dir)
        for cut_short in root.glob("**/*.ckpt.old"):
            finish_replacement(cut_short.with_suffix(""))
        found = newest_first(root, "last*.ckpt")
        if not found:
            others = newest_first(root, "*.ckpt")
            remedy = f"the newest checkpoint is --ckpt_path {others[0]}" if others else "give the path of a checkpoint"
            raise UserError(f"--ckpt_path last: there is no last.ckpt under {root}; {remedy}.")
        flag, path = "--ckpt_path last:", str(found[0])
    elif not Path(path).exists():
        raise UserError(f"--ckpt_path {path} does not exist; give a file under runs/<name>/version_N/checkpoints/.")
    elif Path(path).is_dir() and not is_sharded_checkpoint(Path(path)):
        inside = newest_first(Path(path), "*.ckpt")
        remedy = f"the newest checkpoint in it is {inside[0]}" if inside else "give one that a run has written"
        raise UserError(f"--ckpt_path {path} is a folder and no checkpoint; {remedy}.")
    check_checkpoint(Path(path), flag=flag)
    return path


def spell_out(argv: list[str]) -> list[str]:
    """``--profile`` in full: an option this common should not need the name of its room."""
    return ["--data." + arg[2:] if arg == "--profile" or arg.startswith("--profile=") else arg for arg in argv]


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: arguments as on the command line, for notebooks and tests; None: those of the process.
    """
    argv: Any = sys.argv[1:] if args is None else args
    debug = isinstance(argv, list) and "--debug" in argv
    if debug:
        argv = [arg for arg in argv if arg != "--debug"]
    if isinstance(argv, list):
        argv = spell_out(argv)
    # The string beneath a dataclass field is its help text.
    set_parsing_settings(docstring_parse_attribute_docstrings=True, add_print_completion_argument=True)
    try:
        if isinstance(argv, list) and argv and argv[0] in COMMANDS:
            show_our_log()
            raise SystemExit(COMMANDS[argv[0]].run(argv[1:]))
        try:
            run(argv)
        except Stopped:
            end_process_group()
            raise
        end_process_group()
    except Exception as error:
        mistake = user_error_in(error) or explain_failure(error)
        if debug or mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None


def end_process_group() -> None:
    """Lightning does so for NCCL; gloo's threads abort a process that ends before them."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def show_our_log() -> None:
    """Print what our packages log (counts of dropped rows, routes, paths), and leave other libraries as they are."""
    for package in ("lit_uniopd", "callbacks", "datamodules"):
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler())


def run(argv: Any, cli: type[UniOPDCLI] = UniOPDCLI) -> UniOPDCLI:
    """Parse and run, with errors as exceptions.

    Args:
        argv: the arguments.
        cli: what to do with them.
    """
    torch.set_float32_matmul_precision("high")
    show_our_log()
    install_filters()
    return cli(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_callback=ConfigRecorder,
        parser_class=OneSentenceParser,
        parser_kwargs={"prog": "uniopd", "description": ABOUT},
        args=argv,
    )
