"""``uniopd data show PATH``: what the rows of a table become, before anything is trained on them."""

import pkgutil
from collections.abc import Sequence

from lit_uniopd.utils.command_parser import CommandParser

SHOW = "datamodules.show:main"
"""Found by name: the core does not import the datamodules."""


def main(argv: Sequence[str]) -> int:
    """The command line of ``uniopd data``.

    Args:
        argv: what stands behind it.

    Returns:
        The exit status.
    """
    parser = CommandParser(
        prog="uniopd data",
        description=__doc__,
        usage="uniopd data show PATH [--rows N] [--tokenizer MODEL] [options of --data.train]",
        epilog="`uniopd data show --help` lists the options.",
    )
    parser.add_argument("verb", choices=["show"], help="print rows as the models read them, and counts of all")
    parser.parse_args(argv[:1])
    return pkgutil.resolve_name(SHOW)(argv[1:])
