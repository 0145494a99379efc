"""A user's folder that is called as a package of ours: its files are found behind ours."""

import sys
from collections.abc import Sequence
from pathlib import Path


def own_folder(package: str, ours: Sequence[str]) -> list[str]:
    """The folder of this name in the working directory, to be looked in behind those of the package; none, or one.

    Args:
        package: its name.
        ours: where its modules are.
    """
    try:
        folder = Path.cwd() / package
    except OSError:  # the working directory was removed
        return []
    apart = folder.is_dir() and not any(Path(each).is_dir() and folder.samefile(each) for each in ours)
    return [str(folder)] if apart and not sys.flags.safe_path else []
