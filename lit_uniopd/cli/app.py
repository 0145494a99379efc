"""``uniopd fit`` and the like: LightningCLI with one-sentence errors, and the config in every logger."""

import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.model_helpers import is_overridden

from lit_uniopd.cli.arguments import configure_parsing
from lit_uniopd.cli.commands import ABOUT, COMMANDS, TRAINER_COMMANDS
from lit_uniopd.cli.error_messages import OneSentenceParser, check_configs, trainer_mistake
from lit_uniopd.cli.renamed import with_current_class_paths
from lit_uniopd.cli.shared_rows import SharedRowsWarning
from lit_uniopd.distributed.atomic_checkpoint import check_checkpoint, newest_first
from lit_uniopd.distributed.sharded_checkpoint import finish_replacement, is_sharded_checkpoint
from lit_uniopd.errors import UserError
from lit_uniopd.monitoring.media import log_settings, log_text
from lit_uniopd.utils.progress import in_notebook
from lit_uniopd.utils.stop_request import Stopped
from lit_uniopd.utils.warning_filters import install_filters

TRAINER_DEFAULTS: dict[str, Any] = {
    "inference_mode": False,  # tensors of a validation must not poison the backward passes that follow
    "callbacks": [SharedRowsWarning()],
}


class ConfigRecorder(SaveConfigCallback):
    """Write the resolved config to the run's directory and, as text and as hyper-parameters, to its loggers."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Without a logger a run has no directory of its own: the file would land in the working directory and stop the
        # next run there, a resumed `predict` for one.
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        log_settings(trainer, yaml.safe_load(text))
        log_text(trainer, "config", "    " + text.replace("\n", "\n    "))


class UniOPDCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` for any of our modules and datamodules."""

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
        super().parse_arguments(parser, args)

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
        self._check_run()

    def before_validate(self) -> None:
        self._check_run()

    def before_test(self) -> None:
        self._check_run()

    def before_predict(self) -> None:
        self._check_run()

    def _check_run(self) -> None:
        """Let what is bound to fail do so before models are loaded."""
        config = self.config_init[str(self.subcommand)]
        if self.subcommand in ("validate", "test"):
            config.verbose = False  # our table has what Lightning's has, by domain and with intervals
        # Checkpoints are read without executing pickles; ours need none.
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
        UserError: if there is none, or it is damaged.
    """
    flag = "--ckpt_path"
    if path == "last":
        logger = trainer.logger
        root = Path(logger.root_dir) if isinstance(logger, TensorBoardLogger) else Path(trainer.default_root_dir)
        for interrupted in root.glob("**/*.ckpt.old"):
            finish_replacement(interrupted.with_suffix(""))
        last = newest_first(root, "last*.ckpt")
        if not last:
            checkpoints = newest_first(root, "*.ckpt")
            newest = f"the newest checkpoint is --ckpt_path {checkpoints[0]}" if checkpoints else ""
            remedy = newest or "give the path of a checkpoint"
            raise UserError(f"--ckpt_path last: there is no last.ckpt under {root}; {remedy}.")
        flag, path = "--ckpt_path last:", str(last[0])
    elif not Path(path).exists():
        raise UserError(f"--ckpt_path {path} does not exist; give a file under runs/<name>/version_N/checkpoints/.")
    elif Path(path).is_dir() and not is_sharded_checkpoint(Path(path)):
        inside = newest_first(Path(path), "*.ckpt")
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
