"""How a program of this environment is called so that the line works when it is pasted into a shell."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def program(name: str, module: str) -> str:
    """The name, where the shell finds this environment's program by it; else its path; else `python -m` and its module.

    Args:
        name: of the program.
        module: that `python -m` runs in its place.
    """
    beside = Path(sys.executable).parent / name
    on_path = shutil.which(name)
    if on_path is not None and Path(on_path).parent == beside.parent:
        return name
    if beside.is_file():
        return shlex.quote(_short(beside))
    return f"{shlex.quote(_short(Path(sys.executable)))} -m {module}"


def _short(path: Path) -> str:
    """Relative to the working directory, if it is below it."""
    absolute = Path(os.path.abspath(path))  # links stay: a virtual environment's Python is one
    return os.path.relpath(absolute) if absolute.is_relative_to(Path.cwd()) else str(absolute)
