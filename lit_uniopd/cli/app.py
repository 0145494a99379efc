"""``uniopd fit`` and the like: LightningCLI with one-sentence errors, and the config in every logger."""

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.model_helpers import is_overridden

from lit_uniopd.cli.arguments import configure_parsing
from lit_uniopd.cli.commands import ABOUT, COMMANDS, TRAINER_COMMANDS
from lit_uniopd.cli.early_run_check import refuse_missing_checkpoint, refuse_no_step
from lit_uniopd.cli.error_messages import OneSentenceParser, check_configs, trainer_mistake
from lit_uniopd.cli.logger_mistakes import logger_mistakes_named
from lit_uniopd.cli.next_commands import advice, next_commands
from lit_uniopd.cli.renamed import with_current_class_paths
from lit_uniopd.cli.shared_rows import SharedRowsWarning
from lit_uniopd.distributed.atomic_checkpoint import check_checkpoint, newest_first, read_entry
from lit_uniopd.errors import UserError
from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.modules.same_run import RECORD
from lit_uniopd.monitoring.media import log_settings, log_text
from lit_uniopd.utils.checkpoint_directory import finish_replacement, is_sharded_checkpoint
from lit_uniopd.utils.progress import in_notebook
from lit_uniopd.utils.run_directory import (
    CONFIG,
    check_writable,
    checkpoint_folders,
    claim_directory,
    remove_failed_start,
    run_directory,
    run_root,
    stated_directory,
)
from lit_uniopd.utils.stop_request import Stopped
from lit_uniopd.utils.strict_yaml import parse_yaml
from lit_uniopd.utils.warning_filters import install_filters

log = logging.getLogger(__name__)

TRAINER_DEFAULTS: dict[str, Any] = {
    "inference_mode": False,  # tensors of a validation must not poison the backward passes that follow
    "callbacks": [SharedRowsWarning()],
}


class ConfigRecorder(SaveConfigCallback):
    """Write the resolved config to the run's directory and, as text and as hyper-parameters, to its loggers."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        directory = run_directory(trainer)
        if trainer.is_global_zero and not self.already_saved:
            # What is there was looked at before the run began: a run that is resumed in its own directory.
            self.parser.save(self.config, str(directory / CONFIG), skip_none=False, overwrite=True, multifile=False)
            self.save_config(trainer, pl_module, stage)
        self.already_saved = True

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        log_settings(trainer, parse_yaml(text, "the config"))
        log_text(trainer, "settings/config", "    " + text.replace("\n", "\n    "))


class UniOPDCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` for any of our modules and datamodules."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--allow_oom",
            action="store_true",
            help="start also a run that, by the estimates of its memory plan, may need more than there is",
        )

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Name our commands for the completion too; ``main`` runs them before anything is parsed."""
        super()._add_subcommands(parser, **kwargs)
        subcommands: Any = parser._subcommands_action  # private in jsonargparse
        for choice in subcommands._choices_actions:  # Lightning's sentences are cut in the middle
            choice.help = TRAINER_COMMANDS[choice.dest]
        for name, sentence in TRAINER_COMMANDS.items():  # thirty lines of options tell nobody how to call it
            subparser = self._subcommand_parsers[name]
            subparser.description = sentence
            subparser.usage = (
                f"uniopd {name} -c CONFIG [-c CONFIG ...] [--trainer.X ...] [--model.X ...] [--data.X ...]"
            )
        for name, command in COMMANDS.items():
            subcommands.add_subcommand(name, ArgumentParser(description=command.help), help=command.help)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Look at the config files first, and name classes that have moved where they are now."""
        if isinstance(args, list):
            subparsers = getattr(self, "_subcommand_parsers", {})  # there are none with run=False
            options = {action.dest for each in subparsers.values() or [parser] for action in each._actions}
            keys = {option.partition(".")[0] for option in options} - {"help", "print_config"}
            check_configs(args, keys | set(TRAINER_COMMANDS))  # a file before the command has its settings below it
            args = with_current_class_paths(args)
        with logger_mistakes_named():
            super().parse_arguments(parser, args)

    def instantiate_classes(self) -> None:
        with logger_mistakes_named():
            super().instantiate_classes()

    def _parse_ckpt_path(self) -> None:
        """Take nothing from the checkpoint: our record is the config.

        Lightning would read the whole file here in search of hyper-parameters, and fail on a damaged one before we can
        say so.
        """

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if not sys.stdout.isatty() and not in_notebook() and self._leaves_bar_open():
            kwargs = {"enable_progress_bar": False, **kwargs}
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError) as error:  # an unknown strategy, missing devices
            raise trainer_mistake(error) from error

    def _leaves_bar_open(self) -> bool:
        """Whether the user asked for a progress bar neither by the option nor by a callback."""
        callbacks = self._get(self.config_init, "trainer.callbacks") or []
        bars = [c for c in (callbacks if isinstance(callbacks, list) else [callbacks]) if isinstance(c, ProgressBar)]
        return not bars and self._get(self.config_init, "trainer.enable_progress_bar") is None

    def before_fit(self) -> None:
        if not is_overridden("training_step", self.model):
            raise UserError(f"{type(self.model).__name__} trains nothing; use `uniopd validate`, or another --model.")
        self._begin_run()

    def after_fit(self) -> None:
        if self.trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        for lines in (advice(self.trainer), next_commands(self.trainer)):
            if lines:
                print(lines, flush=True)

    def before_validate(self) -> None:
        self._begin_run()

    def before_test(self) -> None:
        self._begin_run()

    def before_predict(self) -> None:
        self._begin_run()

    def _begin_run(self) -> None:
        self._check_run()
        claim_directory(self.trainer)

    def _check_run(self) -> None:
        """Let what is bound to fail do so before models are loaded."""
        config = self.config_init[str(self.subcommand)]
        if isinstance(self.model, PolicyModule):
            self.model.memory.allow_oom = config.allow_oom
        if self.subcommand in ("validate", "test"):
            config.verbose = False  # our table has what Lightning's has, by domain and with intervals
        # Checkpoints are read without executing pickles; ours need none.
        config.weights_only = True
        if config.get("ckpt_path"):
            config.ckpt_path = find_checkpoint(config.ckpt_path, self.trainer)
            if self.subcommand == "fit" and isinstance(self.model, PolicyModule):
                self.model.record.expect(read_entry(Path(config.ckpt_path), RECORD), self.trainer)
        elif self.subcommand != "fit" and isinstance(self.model, PolicyModule):
            log_untrained(str(self.subcommand), self.model, self.trainer)
        if self.subcommand == "fit":
            refuse_no_step(partial(getattr, self.trainer))
        check_directories(self.trainer, config.get("ckpt_path"))

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except BaseException:
            remove_failed_start(self.trainer)
            raise


def log_untrained(command: str, model: PolicyModule, trainer: Trainer) -> None:
    """Say whose weights a command takes that names no checkpoint of a module that could have been trained."""
    if trainer.is_global_zero and is_overridden("training_step", model):
        log.info(
            "No --ckpt_path: %s takes the weights of %s as they are; --ckpt_path last is the newest checkpoint of this "
            "run's name.",
            command,
            model.model_name,
        )


def check_directories(trainer: Trainer, ckpt_path: str | None) -> None:
    """Refuse directories that cannot be written, or that hold another run. Nothing is made.

    Args:
        trainer: of the run.
        ckpt_path: that is resumed; a run may go on in its own directory.

    Raises:
        UserError: naming the flag.
    """
    for directory in [Path(logger.save_dir) for logger in trainer.loggers if logger.save_dir is not None]:
        try:
            check_writable(directory)
        except OSError as error:
            raise UserError(
                f"Cannot write to {directory} ({error.strerror}); choose another directory by "
                "--trainer.logger.save_dir."
            ) from error
    stated = stated_directory(trainer)
    if stated is not None and (stated / CONFIG).exists():
        resumed = ckpt_path is not None and Path(ckpt_path).resolve().is_relative_to(stated.resolve())
        if not resumed:
            raise UserError(
                f"{stated} holds a run; leave --trainer.logger.version out, which makes a new one, or name another."
            )


def find_checkpoint(path: str, trainer: Trainer) -> str:
    """The checkpoint to resume from; ``last`` is the newest ``last.ckpt`` of any version of this run.

    Lightning itself would look in the new, still empty version directory, and start from scratch.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    flag = "--ckpt_path"
    refuse_missing_checkpoint(path)
    if path == "last":
        folders = checkpoint_folders(trainer)
        for interrupted in (file for folder in folders for file in folder.glob("**/*.ckpt.old")):
            finish_replacement(interrupted.with_suffix(""))
        last = newest_first("last*.ckpt", *folders)
        if not last:
            checkpoints = newest_first("*.ckpt", *folders)
            newest = f"the newest checkpoint is --ckpt_path {checkpoints[0]}" if checkpoints else ""
            remedy = newest or "give the path of a checkpoint"
            raise UserError(f"--ckpt_path last: there is no last.ckpt of this run under {run_root(trainer)}; {remedy}.")
        flag, path = "--ckpt_path last:", str(last[0])
    elif Path(path).is_dir() and not is_sharded_checkpoint(Path(path)):
        inside = newest_first("*.ckpt", Path(path))
        remedy = f"the newest checkpoint in it is {inside[0]}" if inside else "give one that a run has written"
        raise UserError(f"--ckpt_path {path} is a folder and no checkpoint; {remedy}.")
    check_checkpoint(Path(path), flag=flag)
    return path


def run_process(argv: Any) -> None:
    """Run what this process was started for, and leave its process group: with an error the other ranks are waiting."""
    try:
        run(argv)
    except Stopped:
        end_process_group()
        raise
    end_process_group()


def end_process_group() -> None:
    """Lightning does so for NCCL; gloo's threads abort a process that ends before them."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run(argv: Any, cli: type[UniOPDCLI] = UniOPDCLI) -> UniOPDCLI:
    """Parse and run, with errors as exceptions.

    Args:
        argv: the arguments.
        cli: the class that parses and runs them.
    """
    torch.set_float32_matmul_precision("high")
    install_filters()
    configure_parsing()
    return cli(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        trainer_defaults=TRAINER_DEFAULTS,
        save_config_callback=ConfigRecorder,
        parser_class=OneSentenceParser,
        parser_kwargs={"prog": "uniopd", "description": ABOUT},
        args=argv,
    )
