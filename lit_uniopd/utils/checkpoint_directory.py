"""Which checkpoint is where, and which are directories; none is read."""

from pathlib import Path

from lit_uniopd.errors import UserError

META = "meta.pt"
"""Lightning recognises sharded checkpoints by this file."""


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether there is a directory that ``save_sharded`` finished; finishes a replacement that was interrupted."""
    finish_replacement(path)
    return (path / META).is_file()


def finish_replacement(path: Path) -> None:
    """Finish `replace_directory` if it was interrupted: take the new directory if it is complete, else the old."""
    old, partial = (path.with_name(f"{path.name}.{end}") for end in ("old", "partial"))
    if path.exists() or not old.exists():
        return
    try:
        (partial if (partial / META).is_file() else old).rename(path)
    except FileNotFoundError:  # another rank was faster
        return


def newest_checkpoint(path: Path) -> Path:
    """A checkpoint itself, or the last one below the directory of a run.

    Raises:
        UserError: if there is none.
    """
    if not path.exists() and not is_sharded_checkpoint(path):
        raise UserError(f"{path} does not exist; give a checkpoint or the directory of a run, runs/NAME/version_N.")
    if path.is_file() or is_sharded_checkpoint(path):
        return path
    checkpoints = sorted(path.glob("**/*.ckpt"), key=lambda file: (file.stat().st_mtime, file.stem.startswith("last")))
    if not checkpoints:
        raise UserError(f"There is no checkpoint below {path}; give a checkpoint or the directory of another run.")
    return checkpoints[-1]
