"""A directory that appears when all that belongs in it has been written."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_uniopd.errors import UserError


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A place to write beside the directory, which takes its name when the body has ended.

    Raises:
        UserError: if the directory has something in it, or cannot be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is there already; choose another directory, or remove it.")
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    except OSError as error:
        raise UserError(f"Cannot write {directory} ({error.strerror or error}); choose another directory.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
