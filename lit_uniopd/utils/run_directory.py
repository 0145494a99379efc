"""The directory of a run, where everything that it writes goes, whichever loggers it has.

`ROOT/version_N`: `ROOT` belongs to the configuration, and each run of it gets the first free number. The loggers of
TensorBoard and CSV have such a directory of their own, which is taken, so that curves stand beside records. Other
loggers have none (W&B, MLflow) or one that is the same for every run, and some runs have no logger: their root is the
trainer's `default_root_dir`.
"""

import logging
import os
import re
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_uniopd.errors import UserError
from lit_uniopd.utils.lightning_internals import is_open, set_version, stated_version

log = logging.getLogger(__name__)

FileLogger = TensorBoardLogger | CSVLogger
CONFIG = "config.yaml"
"""The resolved settings of a run, in its directory."""
CHECKPOINTS = "checkpoints"
UNSET_ROOT = "lightning_logs"
"""In the working directory, where no root was given; Lightning's own name for it."""
_STATE = "_lit_uniopd_run_directory"


@dataclass
class _State:
    """What is known of one trainer's run; the trainer keeps it."""

    claimed: Path | None = None
    """The directory, on rank 0."""
    path: Path | None = None
    """The directory, on every rank, once rank 0 has told them."""
    made: list[Path] = field(default_factory=list)
    """Folders that the claim has made, the outermost first."""
    savers: list[ModelCheckpoint] = field(default_factory=list)
    """Those that were given their directory by us."""
    has_begun: bool = False
    """Whether anything was trained, validated, tested or predicted."""


def run_directory(trainer: Trainer) -> Path:
    """Where a run's files go: the same on all ranks and for all stages of a trainer, and no other run's.

    A collective call the first time, which is in `setup`; later ones are not.

    Raises:
        UserError: if it cannot be made.
    """
    state = _state(trainer)
    if state.path is None:
        share_directory(trainer)
    assert state.path is not None
    return state.path


def share_directory(trainer: Trainer) -> None:
    """Claim the directory on rank 0, if that has not been done, and tell all ranks. A collective call."""
    claim_directory(trainer)
    state = _state(trainer)
    state.path = Path(trainer.strategy.broadcast(str(state.claimed)))


def make_nothing(trainer: Trainer) -> None:
    """Let ``run_directory`` be the root of the run, which is looked at and not started."""
    root = run_root(trainer)
    setattr(trainer, _STATE, _State(claimed=root, path=root))


def run_root(trainer: Trainer) -> Path:
    """The folder of all versions of this configuration. Nothing is made.

    Raises:
        UserError: if it is not on this machine.
    """
    logger = file_logger(trainer)
    if logger is not None:
        return _expanded(logger.root_dir)
    root = trainer.default_root_dir
    if "://" in root:
        raise UserError(
            f"--trainer.default_root_dir {root} is not on this machine, where records and config are written; give a "
            "local one, and checkpoints their place by the `dirpath` of ModelCheckpoint."
        )
    return Path(root) / UNSET_ROOT if Path(root).resolve() == Path.cwd() else Path(root)


def checkpoint_folders(trainer: Trainer) -> list[Path]:
    """Where runs of this configuration have saved, and only they: below each of their directories, and in the
    `dirpath` of each `ModelCheckpoint`.
    """
    paths = [str(saver.dirpath) for saver in _savers(trainer) if saver.dirpath is not None]
    given = [Path(path) for path in paths if "://" not in path]
    stated = stated_directory(trainer)
    versions = [*run_root(trainer).glob("version_*"), *([] if stated is None else [stated])]
    return [*given, *(version / CHECKPOINTS for version in versions)]


def stated_directory(trainer: Trainer) -> Path | None:
    """The directory, where a logger's `version` says which one it is; else None, and a new one is made."""
    logger = file_logger(trainer)
    return None if logger is None or stated_version(logger) is None else _version_directory(logger)


def file_logger(trainer: Trainer) -> FileLogger | None:
    """The logger whose directory is the run's, whatever the order of the loggers: TensorBoard's rather than CSV's."""
    return min(
        _file_loggers(trainer), key=lambda logger: (isinstance(logger, CSVLogger), logger.root_dir), default=None
    )


def _file_loggers(trainer: Trainer) -> list[FileLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, FileLogger) and "://" not in logger.root_dir]


def claim_directory(trainer: Trainer) -> None:
    """Make the directory, before any logger does; on other ranks than 0 nothing is done.

    `ModelCheckpoint` without a `dirpath` saves below it.

    Raises:
        UserError: if it cannot be made.
    """
    state = _state(trainer)
    if not trainer.is_global_zero or (state.claimed is not None and state.claimed.is_dir()):
        return
    logger, root = file_logger(trainer), run_root(trainer)
    state.claimed = _make(state, root, logger)
    for other in _file_loggers(trainer):
        if (other is logger and stated_version(other) is not None) or is_open(other):
            continue
        same = logger is not None and _expanded(other.root_dir) == _expanded(logger.root_dir)
        directory = state.claimed if same else _make(state, _expanded(other.root_dir), other)
        if stated_version(other) is None:
            number = directory.name.removeprefix("version_")
            set_version(other, int(number) if number.isdecimal() else directory.name)
        if isinstance(other, CSVLogger):
            _ = other.experiment  # it warns of folders that have files, TensorBoard's for one
    for saver in _savers(trainer):
        if saver.dirpath is None:
            saver.dirpath = str(state.claimed / CHECKPOINTS)
            state.savers.append(saver)
        else:
            _allow_own_folders(Path(saver.dirpath), state.made)


def _allow_own_folders(directory: Path, made: list[Path]) -> None:
    """Lightning warns of a `dirpath` that is not empty; the root of the runs is not, now that this one has begun."""
    contents = set(directory.iterdir()) if directory.is_dir() else set()
    if contents and contents <= {path.resolve() for path in made}:
        warnings.filterwarnings("ignore", message=f"Checkpoint directory {re.escape(str(directory))} exists")


def _savers(trainer: Trainer) -> list[ModelCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]


def _make(state: _State, root: Path, logger: FileLogger | None) -> Path:
    """Make a directory below a root: the one that the logger's version states, else a new one."""
    folders = [path for path in (*reversed(root.parents), root) if not path.exists()]
    state.made += folders
    try:
        root.mkdir(parents=True, exist_ok=True)
        if logger is None or stated_version(logger) is None:
            directory = _new_version(root)
            state.made.append(directory)
        else:
            directory = _version_directory(logger)
            if not (directory.exists() or is_open(logger)):
                state.made.append(directory)
            directory.mkdir(parents=True, exist_ok=True)
            check_writable(directory)
    except OSError as error:
        _forget(state)
        flag = "default_root_dir" if logger is None else "logger.save_dir"
        raise UserError(
            f"Cannot write to {root} ({error.strerror}); choose another directory by --trainer.{flag}."
        ) from error
    return directory


def _new_version(root: Path) -> Path:
    """Make the first free directory; two runs that start at the same moment get two."""
    numbers = [re.fullmatch(r"version_(\d+)", path.name) for path in root.iterdir()]
    number = max((int(match[1]) + 1 for match in numbers if match), default=0)
    while True:
        try:
            (root / f"version_{number}").mkdir()
            return root / f"version_{number}"
        except FileExistsError:
            number += 1


def _version_directory(logger: FileLogger) -> Path:
    version = stated_version(logger)
    return _expanded(logger.root_dir) / (version if isinstance(version, str) else f"version_{version}")


def _expanded(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.expanduser(os.path.expandvars(path)))


def check_writable(directory: Path) -> None:
    """Try to write into a directory, or into the one that it would be made in; nothing stays.

    Raises:
        OSError: if that fails.
    """
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    probe = existing / f".writable-{os.getpid()}"
    probe.touch()
    probe.unlink()


# --- when it ends ---


def mark_begun(trainer: Trainer) -> None:
    """From here on there is something to keep."""
    _state(trainer).has_begun = True


def leave_directory(trainer: Trainer) -> None:
    """Take the directory away if nothing was written into it; a later stage makes it anew."""
    state = _state(trainer)
    if state.claimed is not None and state.made and _remove_empty(state.claimed):
        _forget(state)


def remove_failed_start(trainer: Trainer) -> None:
    """Take away what a run has left that was refused before its first step; answers that it has written stay."""
    state = _state(trainer)
    directory = state.claimed
    if state.has_begun or directory is None or directory not in state.made or any(directory.rglob("*.jsonl")):
        return
    for logger in trainer.loggers:  # TensorBoard's would write its last lines into a directory that is gone
        logger.finalize("failed")
    for folder in state.made:
        if folder == directory or any(folder == _version_directory(logger) for logger in _file_loggers(trainer)):
            shutil.rmtree(folder, ignore_errors=True)
    _forget(state)


def _forget(state: _State) -> None:
    for folder in reversed(state.made):
        _remove_empty(folder)
    for saver in state.savers:
        saver.dirpath = None
    state.claimed, state.made, state.savers = None, [], []


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # it holds something, or is gone
        return False
    return True


def _state(trainer: Trainer) -> _State:
    state = getattr(trainer, _STATE, None)
    if state is None:
        setattr(trainer, _STATE, state := _State())
    return state
