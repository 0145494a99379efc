"""``uniopd new``: a small project with a part of each kind of its own, which runs and whose tests pass."""

import logging
import shutil
from pathlib import Path

from lit_uniopd.utils.command_parser import CommandParser
from lit_uniopd.utils.new_directory import new_directory

PROJECT = Path(__file__).parent / "project"

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """The command line of ``uniopd new``."""
    parser = CommandParser(prog="uniopd new", description=__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path, help="the directory to write")
    directory = parser.parse_args(argv).directory.expanduser()
    with new_directory(directory) as partial:
        for file in sorted(PROJECT.iterdir()):
            if file.is_file():
                shutil.copyfile(file, partial / file.name)
    log.info("%s holds a project; its README.md says what is what.", directory)
    log.info("Next: cd %s && uniopd fit -c config.yaml", directory)
    return 0
